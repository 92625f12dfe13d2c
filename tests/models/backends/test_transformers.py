"""Loading checkpoints, good and damaged, and asking them."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Decoding, Question, load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel


@pytest.fixture(scope="module")
def model(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu", batch_size=4)


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "policy"))


def logits(model: TransformersModel, picture: Image.Image) -> torch.Tensor:
    prompt = torch.tensor(model.encoder.prompts(["is there a cup?"], model.encoder.placeholder(36)))
    with torch.no_grad():
        return model.module(
            input_ids=prompt, pixel_values=model.encoder.image(picture).inputs["pixel_values"]
        ).logits


def test_answers_do_not_depend_on_the_batch(
    model: TransformersModel, tiny: Path, pictures: list[Image.Image]
) -> None:
    questions = [
        Question(p, q)
        for p in pictures[:3]
        for q in ("describe the image in detail.", "name three objects in the image.")
    ]
    seeds = [[k, 100 + k] for k in range(6)]
    decoding = Decoding(temperature=0.7, max_new_tokens=12)
    found = model.sample(questions, seeds, decoding)
    assert found == load_model(tiny, device="cpu", batch_size=1).sample(questions, seeds, decoding)
    assert len({a.text for row in found for a in row}) == 12
    for answer in (a for row in found for a in row):
        assert answer.token_count == 12 if answer.finish_reason == "length" else answer.token_count <= 12
        assert "</s>" not in answer.text


def test_first_tokens_are_the_softmax_after_the_prompt(
    model: TransformersModel, pictures: list[Image.Image]
) -> None:
    """Images with different numbers of questions, one question asked alone, in more batches than one."""
    questions = [
        ["is there a cup?", "is there a dog?", "is this a living room?"],
        ["is there a bus?"],
        ["is there a cup?"],
        ["is this a park?"],
        ["a?"],
    ]
    found = model.first_tokens(pictures[:5], questions, [["yes"], ["no", "a"]])
    assert [len(f) for f in found] == [len(q) for q in questions]
    yes, no = model.encoder.first_tokens([["yes"], ["no", "a"]])
    for picture, asked, replies in zip(pictures, questions, found):
        for question, reply in zip(asked, replies):
            prompt = torch.tensor(model.encoder.prompts([question], model.encoder.placeholder(36)))
            with torch.no_grad():
                last = model.module(
                    input_ids=prompt, pixel_values=model.encoder.image(picture).inputs["pixel_values"]
                ).logits[0, -1]
            softmax = last.softmax(-1)
            np.testing.assert_allclose(reply.probs, [softmax[yes].sum(), softmax[no].sum()], atol=1e-6)
            best = softmax.topk(5)
            np.testing.assert_allclose([p for _, p in reply.likeliest], best.values, atol=1e-5)
            words = [model.encoder.tokenizer.decode([i]) for i in best.indices.tolist()]
            assert [word for word, _ in reply.likeliest] == words and reply.error is None


def test_log_probs_come_back_question_by_question(
    model: TransformersModel, pictures: list[Image.Image]
) -> None:
    questions = [Question(p, "name three objects in the image.") for p in pictures[:5]]
    answers = [
        ["a cup.", "a dog and a cat."],
        ["a bus."],
        ["a cat.", "a bench.", "a kite and a dog."],
        ["a tv."],
        ["a clock and a bowl.", "a tv."],
    ]
    found = model.branch_log_probs(questions, answers)
    assert [[count for _, count in row] for row in found] == [[4, 7], [4], [4, 4, 7], [4], [7, 4]]
    for question, texts, row in zip(questions, answers, found):
        alone = [model.branch_log_probs([question], [[text]])[0][0][0] for text in texts]
        np.testing.assert_allclose([total for total, _ in row], alone, atol=1e-4)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such-model is no checkpoint: it has no config.json"):
        load_model(tmp_path / "no-such-model")


def test_a_folder_without_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(UserError, match=r"policy is no checkpoint: it has no config.json"):
        load_model(checkpoint)


def test_truncated_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"policy: model\.safetensors is damaged"):
        load_model(checkpoint)


def test_empty_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"policy: model\.safetensors is empty"):
        load_model(checkpoint)


def shard(checkpoint: Path) -> None:
    """Split the weights in two files with an index."""
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    place = {
        name: f"model-0000{1 + (i >= len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)
    }
    for file in set(place.values()):
        save_file(
            {n: weights[n] for n in names if place[n] == file}, checkpoint / file, metadata={"format": "pt"}
        )
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": place}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_missing_shard_is_named(
    checkpoint: Path, model: TransformersModel, pictures: list[Image.Image]
) -> None:
    shard(checkpoint)
    assert torch.equal(logits(load_model(checkpoint, device="cpu"), pictures[0]), logits(model, pictures[0]))
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors"):
        load_model(checkpoint)


def test_weights_that_lack_a_tensor_are_refused(checkpoint: Path) -> None:
    """transformers only warns, and fills in random numbers."""
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    save_file({name: w for name, w in weights.items() if name != gone}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="policy: .*layers.1.mlp.down_proj.weight"):
        load_model(checkpoint)


def test_layers_that_the_config_has_no_place_for_are_refused(checkpoint: Path) -> None:
    """transformers drops them without a word: two layers of three."""
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the weights hold .*layers\.2\..* config\.json has no place"):
        load_model(checkpoint)


def test_a_head_that_is_left_over_is_told(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = checkpoint / "model.safetensors"
    save_file({**load_file(file), "score.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    load_model(checkpoint, device="cpu")
    assert "left out are weights that the model has no place for: score.weight" in caplog.text


class Hostile:
    """What runs when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it was run",)


def test_a_bin_file_with_code_is_not_run(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    load_model(checkpoint, device="cpu")
    torch.save({"weight": Hostile()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds something other than weights.* it was not run.*safetensors"):
        load_model(checkpoint)
    assert "it was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["strange", None])
def test_code_that_comes_with_a_checkpoint_is_not_run(checkpoint: Path, name: str, kind: str | None) -> None:
    """Whichever file names it, and whether or not the model's kind is known."""
    ran = checkpoint / "it_was_run"
    (checkpoint / "hostile.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Hostile: pass\n")
    code = {
        "config.json": {"AutoConfig": "hostile.Hostile", "AutoModelForImageTextToText": "hostile.Hostile"},
        "preprocessor_config.json": {
            "AutoImageProcessor": "hostile.Hostile",
            "AutoProcessor": "hostile.Hostile",
        },
        "tokenizer_config.json": {"AutoTokenizer": ["hostile.Hostile", "hostile.Hostile"]},
    }
    path = checkpoint / name
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings["auto_map"] = code[name]
    if kind is not None:
        key = {"config.json": "model_type", "tokenizer_config.json": "tokenizer_class"}
        settings[key.get(name, "image_processor_type")] = kind
    path.write_text(json.dumps(settings))
    with suppress(UserError):
        load_model(checkpoint, device="cpu")
    assert not ran.exists()


def test_weights_of_other_shapes_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    name = next(n for n in weights if n.endswith("multi_modal_projector.linear_1.bias"))
    save_file({**weights, name: torch.zeros(5)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="policy: can't load the checkpoint"):
        load_model(checkpoint)


def test_a_damaged_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "llava", ')
    with pytest.raises(UserError, match="policy: config.json is not JSON"):
        load_model(checkpoint)


def test_a_model_without_images(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="policy: it is a language model, which sees no pictures"):
        load_model(checkpoint)


def test_a_quantized_model(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="policy: its weights are quantized"):
        load_model(checkpoint)


def test_missing_processor_files(checkpoint: Path) -> None:
    for file in checkpoint.iterdir():
        if file.name not in ("config.json", "generation_config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(UserError, match="policy: its processor or tokenizer can't be loaded"):
        load_model(checkpoint)


def adapters(tiny: Path, folder: Path) -> TransformersModel:
    """Save random LoRA adapters for the tiny checkpoint, and return the adapted model as it is in memory."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    loaded = load_model(tiny, device="cpu")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|up_proj)", init_lora_weights=False
    )
    adapted = get_peft_model(loaded.module, config)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny)
    adapted.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return loaded


def test_adapters_load_merged(
    tiny: Path, tmp_path: Path, model: TransformersModel, pictures: list[Image.Image]
) -> None:
    in_memory = adapters(tiny, tmp_path / "adapters")
    merged = load_model(tmp_path / "adapters", device="cpu")
    assert not any("lora" in name for name, _ in merged.module.named_parameters())
    torch.testing.assert_close(
        logits(merged, pictures[0]), logits(in_memory, pictures[0]), atol=1e-4, rtol=1e-4
    )
    assert (logits(merged, pictures[0]) - logits(model, pictures[0])).abs().max() > 0.1


def test_adapters_whose_base_is_gone_name_it(tiny: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    adapters(base, tmp_path / "adapters")
    shutil.rmtree(base)
    with pytest.raises(UserError, match="base is no checkpoint"):
        load_model(tmp_path / "adapters")


@pytest.mark.parametrize("text", ["{", "{}", '{"base_model_name_or_path": null}'])
def test_a_damaged_adapter_config(tiny: Path, tmp_path: Path, text: str) -> None:
    adapters(tiny, tmp_path / "adapters")
    (tmp_path / "adapters" / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match="adapters"):
        load_model(tmp_path / "adapters")


def test_cut_off_adapters(tiny: Path, tmp_path: Path) -> None:
    adapters(tiny, tmp_path / "adapters")
    weights = tmp_path / "adapters" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="adapter_model.safetensors is damaged"):
        load_model(tmp_path / "adapters")


ABOUT = [
    ["describe the image in detail.", "is there a cup?", "name three objects in the image."],
    ["is there a dog?"],
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_about_an_image_are_those_of_the_questions_asked_alone(
    tiny: Path, pictures: list[Image.Image], temperature: float
) -> None:
    """Three questions about one image and one about another, of different lengths: greedy, and with seeds
    of their own.
    """
    model = load_model(tiny, device="cpu", dtype="float64")
    decoding, seeds = Decoding(temperature, 12), [[1, 2, 3], [4]]
    together = model.sample_about(pictures[:2], ABOUT, seeds, decoding)
    alone = [
        [
            model.sample([Question(pictures[i], q)], [[seed]], decoding)[0][0]
            for q, seed in zip(asked, seeds[i])
        ]
        for i, asked in enumerate(ABOUT)
    ]
    assert together == alone
    assert len({answer.text for row in together for answer in row}) > 2


def test_answers_of_models_that_are_not_packed(
    tiny: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny, device="cpu", dtype="float64")
    decoding, seeds = Decoding(0, 8), [[0, 0, 0], [0]]
    packed = model.sample_about(pictures[:2], ABOUT, seeds, decoding)
    for way in ("copied", "separate"):
        monkeypatch.setattr(model.module, "_branching_way", way)
        assert model.sample_about(pictures[:2], ABOUT, seeds, decoding) == packed


def test_a_prompt_that_does_not_fit_is_an_error_and_the_others_go_on(
    model: TransformersModel, pictures: list[Image.Image]
) -> None:
    """In one batch with others, about an image with others, and alone."""
    decoding = Decoding(temperature=1.0, max_new_tokens=12)
    short, long = (Question(pictures[0], q) for q in ("is there a cup?", "is there a cup? " * 300))
    found = model.sample([short, long, short], [[1, 2], [3, 4], [5, 6]], decoding)
    assert [found[0], found[2]] == model.sample([short] * 2, [[1, 2], [5, 6]], decoding)
    assert [[a.error is None for a in row] for row in found] == [[True] * 2, [False] * 2, [True] * 2]
    assert "tokens fill the model's context" in str(found[1][0].error)
    [about] = model.sample_about(pictures[:1], [[short.text, long.text]], [[1, 3]], decoding)
    assert about == [model.sample([short], [[1]], decoding)[0][0], found[1][0]]
    assert model.sample([long], [[3, 4]], decoding) == [found[1]]


def test_an_answer_ends_where_the_context_does(model: TransformersModel, pictures: list[Image.Image]) -> None:
    """A prompt that leaves room for 5 tokens, whatever is beside it."""
    context = model.module.config.get_text_config().max_position_embeddings
    [empty] = model.encoder.prompts([""], model.encoder.placeholder(36))
    near = Question(pictures[0], "cup " * (context - 5 - len(empty)))
    decoding, seeds = Decoding(temperature=1.0, max_new_tokens=12), [1, 2, 3, 4]
    [alone] = model.sample([near], [seeds], decoding)
    assert [a.token_count for a in alone if a.finish_reason == "length"] and max(
        a.token_count for a in alone
    ) == 5
    assert {a.finish_reason for a in alone if a.token_count < 5} <= {"stop"}
    assert model.sample([Question(pictures[1], "?"), near], [seeds, seeds], decoding)[1] == alone
    [about] = model.sample_about(pictures[:1], [[near.text, "is there a cup?"]], [[1, 1]], decoding)
    assert about[0] == alone[0]


def test_a_question_that_fills_the_context_has_no_first_token(
    model: TransformersModel, pictures: list[Image.Image]
) -> None:
    """Beyond it the numbers mean nothing, and the others of its image keep theirs."""
    words = [["yes"], ["no"]]
    [[alone]] = model.first_tokens(pictures[:1], [["is there a cup?"]], words)
    asked = ["is there a cup? " * 100, "is there a cup?"]
    [[long, short]] = model.first_tokens(pictures[:1], [asked], words)
    assert "fill the model's context" in str(long.error) and all(p != p for p in long.probs)
    assert short.error is None and short.probs == pytest.approx(alone.probs, rel=1e-4)
