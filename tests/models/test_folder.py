"""What a checkpoint's folder is: checked on small folders in which one thing is missing, cut or strange."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.files_of_checkpoint import read_tensors
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_here, folder_of, is_hub_name

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """One file with two tensors: 6 + 4 numbers."""
    folder = tmp_path / "whole"
    folder.mkdir()
    write_json(folder / "config.json", model_type="llama")
    tensors = {"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    write_json(folder / "config.json", model_type="llama")
    for name, shard in zip("ab", SHARDS):
        save_file({name: np.zeros(3, np.float16)}, folder / shard)
    write_json(folder / INDEX, weight_map=dict(zip("ab", SHARDS)))
    return folder


def problems(folder: Path) -> list[tuple[str, str]]:
    return [(problem.what, problem.where.name) for problem in CheckpointFolder(folder).problems()]


def test_a_whole_checkpoint(whole: Path, sharded: Path) -> None:
    weights = CheckpointFolder(whole).weights
    assert (weights.names, weights.parameters, weights.problems) == ({"a", "b"}, 10, ())
    assert weights.tensors == {"a": ((2, 3), "F16"), "b": ((4,), "F32")}
    assert CheckpointFolder(whole).stored_dtype == "float16"
    assert problems(whole) == problems(sharded) == []
    assert CheckpointFolder(sharded).weights.parameters == 6


def test_weights_in_one_file_count_before_an_index_that_was_left_behind(whole: Path) -> None:
    """As transformers takes them."""
    write_json(whole / INDEX, weight_map={"a": "gone.safetensors"})
    assert problems(whole) == []


def cut(folder: Path) -> None:
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(folder: Path) -> None:
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes() + b"x")


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "what", "where"),
    [
        (unlink(SHARDS[1]), f"{SHARDS[1]} is missing, but {INDEX} names it", SHARDS[1]),
        (write(SHARDS[1], ""), f"{SHARDS[1]} is empty", SHARDS[1]),
        (write(SHARDS[1], "no header"), f"{SHARDS[1]} is damaged (", SHARDS[1]),
        (cut, f"{SHARDS[1]} is damaged (", SHARDS[1]),
        (lengthen, f"{SHARDS[1]} is damaged (", SHARDS[1]),
        (unlink(INDEX), "the folder holds no weights", "model.safetensors"),
        (write(INDEX, "{}"), f"{INDEX} names no weights", INDEX),
        (write(INDEX, '{"weight_map": ["a"]}'), f"{INDEX} names no weights", INDEX),
        (write(INDEX, "{"), f"{INDEX} is not JSON (", INDEX),
        (unlink("config.json"), "config.json is missing", "config.json"),
        (write("config.json", ""), "config.json is not JSON (", "config.json"),
        (write("config.json", "[]"), "config.json holds no JSON object", "config.json"),
    ],
)
def test_damage_is_named(sharded: Path, damage: Callable[[Path], None], what: str, where: str) -> None:
    damage(sharded)
    ((found, file),) = problems(sharded)
    assert found.startswith(what) and file == where
    with pytest.raises(UserError) as refused:
        CheckpointFolder(sharded).refuse_damaged("Fetch it again.")
    assert refused.value.message == f"{sharded}: {found}. Fetch it again."


def test_all_problems_are_told(sharded: Path) -> None:
    unlink(SHARDS[0])(sharded)
    unlink("config.json")(sharded)
    cut(sharded)
    assert len(problems(sharded)) == 3


OLD_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin


@pytest.mark.parametrize(("dtype", "parameters"), [("float32", 25), ("bfloat16", 50), (None, 50)])
def test_bin_files_are_counted_by_their_bytes(tmp_path: Path, dtype: str | None, parameters: int) -> None:
    """100 bytes of float32 are 25 numbers. An index tells the names, a single file none."""
    write_json(tmp_path / "config.json", torch_dtype=dtype)
    (tmp_path / "pytorch_model.bin").write_bytes(OLD_PICKLE.ljust(100))
    weights = CheckpointFolder(tmp_path).weights
    assert (weights.names, weights.parameters, weights.problems) == (set(), parameters, ())
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "pytorch_model-1.bin")
    write_json(tmp_path / "pytorch_model.bin.index.json", weight_map={"a": "pytorch_model-1.bin"})
    weights = CheckpointFolder(tmp_path).weights
    assert (weights.names, weights.parameters, weights.problems) == ({"a"}, parameters, ())


def pointer(name: str) -> Callable[[Path], None]:
    return write(name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def index(**place: str) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / INDEX, weight_map=place)


def store(**tensors: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: save_file(tensors, folder / SHARDS[1])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (pointer(SHARDS[1]), f"{SHARDS[1]} is a Git LFS pointer, not the file itself"),
        (pointer(INDEX), f"{INDEX} is a Git LFS pointer"),
        (pointer("config.json"), "config.json is a Git LFS pointer"),
        (pointer("tokenizer.model"), "tokenizer.model is a Git LFS pointer"),
        (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
        (write("tokenizer_config.json", "{"), "tokenizer_config.json is not JSON"),
        (write("generation_config.json", "[" * 9999), "generation_config.json is not JSON"),
        (index(a=SHARDS[0], b=SHARDS[1], c=SHARDS[1]), f"{SHARDS[1]} lacks c, which {INDEX} says is there"),
        (index(a=SHARDS[0]), f"{SHARDS[1]} is there, but {INDEX} doesn't name it"),
        (index(a="../x.safetensors"), f"{INDEX} names files that can't be its own"),
        (
            store(**{"b": np.zeros(3, np.float32), "b.weight": np.zeros((2, 2), np.int8)}),
            "b.weight is stored as I8",
        ),
    ],
)
def test_more_damage(sharded: Path, damage: Callable[[Path], None], what: str) -> None:
    """Pointers in place of files, indexes that don't fit their shards, and numbers that are none."""
    damage(sharded)
    with pytest.raises(UserError) as refused:
        CheckpointFolder(sharded).refuse_damaged("Fetch it again.")
    assert what in refused.value.message


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", False),
        (b"PK\x03\x04 and nothing after it", False),
        (b"\x80\x04K\x01.", False),
        (OLD_PICKLE, True),
    ],
)
def test_bin_files_that_torch_did_not_write(tmp_path: Path, content: bytes, whole: bool) -> None:
    write_json(tmp_path / "config.json")
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert (CheckpointFolder(tmp_path).problems() == []) is whole


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "llava"}, "llava"),
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, "llava_original"),
        ({"model_type": "omnilmm", "mm_vision_tower": "x"}, "omnilmm"),
        ({"model_type": "minicpmv"}, "minicpmv"),
        ({}, None),
        ({"model_type": ["llava"], "architectures": 3}, None),
    ],
)
def test_families(tmp_path: Path, config: dict[str, object], family: str | None) -> None:
    write_json(tmp_path / "config.json", **config)
    assert CheckpointFolder(tmp_path).family == family


def test_adapters_and_their_base(whole: Path, tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    write_json(adapters / "adapter_config.json", base_model_name_or_path=str(whole))
    folder = CheckpointFolder(adapters)
    assert folder.is_adapter
    assert folder.with_weights().path == whole
    assert problems(adapters) == [("the adapters have no weights", "adapter_model.safetensors")]
    save_file({"lora": np.zeros(2, np.float32)}, adapters / "adapter_model.safetensors")
    assert problems(adapters) == []
    (whole / "config.json").unlink()
    with pytest.raises(UserError, match="whole is no checkpoint: it has no config.json"):
        folder.with_weights()


@pytest.mark.parametrize("named", [{}, {"base_model_name_or_path": None}, {"base_model_name_or_path": 3}])
def test_adapters_that_name_no_base(tmp_path: Path, named: dict[str, object]) -> None:
    write_json(tmp_path / "adapter_config.json", **named)
    save_file({"lora": np.zeros(2)}, tmp_path / "adapter_model.safetensors")
    ((what, where),) = problems(tmp_path)
    assert (
        where == "adapter_config.json" and "doesn't name the checkpoint that the adapters belong to" in what
    )
    with pytest.raises(UserError, match=f"{tmp_path}: adapter_config.json doesn't name"):
        CheckpointFolder(tmp_path).with_weights()


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "missing.safetensors")


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("openbmb/RLAIF-V-7B")
    for source in ("models/gone", "./models/x", "/models/x", "a/b/c", "model", Path("openbmb/RLAIF-V-7B")):
        assert not is_hub_name(source)
        assert folder_of(source) == Path(source)
    assert folder_here("models") == Path("models")
    assert folder_here("models/gone") is None


def test_a_model_on_the_hub_is_fetched_or_only_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def fetch(name: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise OSError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert folder_here("someone/llama") is None
    assert folder_of("someone/llama") == tmp_path
