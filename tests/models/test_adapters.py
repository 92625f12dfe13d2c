"""Adapters with the original's names, against W + scale B A worked by hand."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.adapters import merge_adapter
from rlaifv_kedro.models.llava.original import load_llava_original

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity" / "llava_original"
PEFT = "base_model.model."
MODULES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.mlp.down_proj",
]
RANK, ALPHA = 4, 6


def policy() -> LlavaForConditionalGeneration:
    return load_llava_original(FIXTURE, dtype=torch.float32)


@pytest.fixture(scope="module")
def lora() -> dict[str, torch.Tensor]:
    """Some modules of some layers, as the original names them."""
    torch.manual_seed(3)
    weights = load_file(FIXTURE / "model.safetensors")
    shapes = {module: weights[f"{module}.weight"].shape for module in MODULES}
    a = {
        f"{PEFT}{module}.lora_A.weight": torch.randn(RANK, inner) * 0.2
        for module, (_, inner) in shapes.items()
    }
    return a | {
        f"{PEFT}{module}.lora_B.weight": torch.randn(outer, RANK) * 0.2
        for module, (outer, _) in shapes.items()
    }


@pytest.fixture(scope="module")
def others() -> dict[str, torch.Tensor]:
    """The projector, as LLaVA's train.py saves it (and some trained embeddings)."""
    torch.manual_seed(4)
    names = [
        "model.mm_projector.0.weight",
        "model.mm_projector.0.bias",
        "model.mm_projector.2.weight",
        "model.mm_projector.2.bias",
        "lm_head.weight",
    ]
    weights = load_file(FIXTURE / "model.safetensors")
    return {f"{PEFT}{name}": torch.randn(weights[name].shape) * 0.2 for name in names}


@pytest.fixture
def adapter(lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    # The original's config names suffixes, which the vision tower's layers have too.
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "elsewhere/llava",
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(lora, tmp_path / "adapter_model.safetensors")
    torch.save(others, tmp_path / "non_lora_trainables.bin")
    return tmp_path


def by_hand(lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The original's weights with the adapter in them, under transformers' names."""
    state = policy().state_dict()
    for module in MODULES:
        delta = ALPHA / RANK * lora[f"{PEFT}{module}.lora_B.weight"] @ lora[f"{PEFT}{module}.lora_A.weight"]
        state[module.replace("model.layers", "model.language_model.layers") + ".weight"] += delta
    for name, weight in (others or {}).items():
        new = name.removeprefix(PEFT)
        for old, part in (("mm_projector.0", "linear_1"), ("mm_projector.2", "linear_2")):
            new = new.replace(old, f"multi_modal_projector.{part}")
        state[new][: len(weight)] = weight
    return state


def assert_merged(model: LlavaForConditionalGeneration, state: dict[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, weight in state.items():
        torch.testing.assert_close(found[name], weight, atol=1e-7, rtol=1e-6, msg=name)


@pytest.mark.parametrize("layout", ["safetensors", "bin", "without projector"])
def test_merged_is_w_plus_scale_b_a(
    adapter: Path, lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor], layout: str
) -> None:
    if layout == "bin":
        (adapter / "adapter_model.safetensors").unlink()
        torch.save(lora, adapter / "adapter_model.bin")
    if layout == "without projector":
        torch.save({}, adapter / "non_lora_trainables.bin")  # as train.py writes it where nothing else learns
    before = torch.get_rng_state()
    model = policy()
    torch.set_rng_state(before)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # of PEFT, when layers get adapters that the file has no weights for
        merged = merge_adapter(model, adapter)
    assert torch.equal(torch.get_rng_state(), before)
    state = by_hand(lora, None if layout == "without projector" else others)
    assert type(merged) is LlavaForConditionalGeneration
    assert_merged(merged, state)
    expected = load_file(FIXTURE / "expected.safetensors")
    ids = torch.tensor(
        [[j for i in expected["input_ids"][0].tolist() for j in ([320] * 36 if i < 0 else [i])]]
    )
    wanted = policy()
    wanted.load_state_dict(state)
    with torch.no_grad():
        found, right, plain = (
            m(input_ids=ids, pixel_values=expected["pixel_values"]).logits for m in (merged, wanted, policy())
        )
    torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 0.1


def test_a_merged_model_saves_as_an_ordinary_checkpoint_and_takes_adapters_after_it(
    adapter: Path, lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    merge_adapter(policy(), adapter).save_pretrained(tmp_path / "merged")
    policy().save_pretrained(tmp_path / "converted")
    merged, converted = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("merged", "converted")
    )
    state = by_hand(lora, others)
    assert_merged(merged, state)
    assert_merged(merge_adapter(converted, adapter), state)


def test_projector_names_without_pefts_prefix(
    adapter: Path, lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
) -> None:
    """LLaVA's builder.py takes base_model. off only where it is, and then one model. only if another
    follows.
    """
    torch.save(
        {name.removeprefix(PEFT): weight for name, weight in others.items()},
        adapter / "non_lora_trainables.bin",
    )
    assert_merged(merge_adapter(policy(), adapter), by_hand(lora, others))


def test_names_of_transformers_need_no_file_beside_them(adapter: Path, lora: dict[str, torch.Tensor]) -> None:
    """As this project's training writes them, and as peft did with llava-hf under transformers 4."""
    (adapter / "non_lora_trainables.bin").unlink()
    for place in ("model.language_model.layers", "language_model.model.layers"):
        renamed = {k.replace("model.layers", place): v for k, v in lora.items()}
        save_file(renamed, adapter / "adapter_model.safetensors")
        assert_merged(merge_adapter(policy(), adapter), by_hand(lora, None))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="the adapters have no weights"):
        merge_adapter(policy(), adapter)


def test_the_originals_adapters_without_their_projector_are_refused(adapter: Path) -> None:
    """Its intermediate checkpoints lack it: they would merge to the base's projector."""
    (adapter / "non_lora_trainables.bin").unlink()
    model = policy()
    with pytest.raises(UserError, match=r"without non_lora_trainables\.bin, which holds the projector"):
        merge_adapter(model, adapter)
    assert_merged(model, policy().state_dict())


def test_a_part_of_a_projector_is_refused(adapter: Path, others: dict[str, torch.Tensor]) -> None:
    """The rest of it would stay the base's."""
    found = {name: weight for name, weight in others.items() if "projector.2" not in name}
    torch.save(found, adapter / "non_lora_trainables.bin")
    model = policy()
    with pytest.raises(UserError, match=r"part of the projector: it lacks model\.mm_projector\.2\.bias"):
        merge_adapter(model, adapter)
    assert_merged(model, policy().state_dict())


@pytest.mark.parametrize("held", [[1], torch.zeros(2), {"a": 1}, {1: torch.zeros(2)}])
def test_a_file_without_named_weights_is_refused(adapter: Path, held: object) -> None:
    torch.save(held, adapter / "non_lora_trainables.bin")
    with pytest.raises(UserError, match=r"non_lora_trainables\.bin: is damaged: it holds no weights by"):
        merge_adapter(policy(), adapter)


def test_adapters_of_another_rank_are_told_apart_from_their_config(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(UserError, match="size mismatch for .*lora_A"):
        merge_adapter(policy(), adapter)


def test_a_projector_that_peft_saved_beside_the_adapters(
    adapter: Path, lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
) -> None:
    """``modules_to_save`` puts it into the adapters' own file."""
    (adapter / "non_lora_trainables.bin").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "modules_to_save": ["mm_projector", "lm_head"]})
    )
    save_file({**lora, **others}, adapter / "adapter_model.safetensors")
    assert_merged(merge_adapter(policy(), adapter), by_hand(lora, others))


def test_the_scale_of_rank_stabilized_adapters(adapter: Path, lora: dict[str, torch.Tensor]) -> None:
    """alpha / sqrt(rank) in place of alpha / rank: twice as much at rank 4."""
    torch.save({}, adapter / "non_lora_trainables.bin")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    twice = {k: 2 * v if "lora_B" in k else v for k, v in lora.items()}
    assert_merged(merge_adapter(policy(), adapter), by_hand(twice, None))


def test_dora_needs_its_magnitudes(adapter: Path, lora: dict[str, torch.Tensor]) -> None:
    """m (W + scale B A) / |W + scale B A|, the norm of each row (Liu et al. 2024, eq. 5), worked by hand."""
    torch.save({}, adapter / "non_lora_trainables.bin")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match="lacks DoRA's lora_magnitude_vector"):
        merge_adapter(policy(), adapter)
    state, magnitudes = by_hand(lora, None), {}
    for i, module in enumerate(MODULES):
        name = module.replace("model.layers", "model.language_model.layers") + ".weight"
        magnitude = torch.linspace(0.5, 1.5, len(state[name])) + i
        magnitudes[f"{PEFT}{module}.lora_magnitude_vector"] = magnitude
        if i == 0:
            save_file({**lora, **magnitudes}, adapter / "adapter_model.safetensors")
            with pytest.raises(UserError, match="lacks DoRA's lora_magnitude_vector of .*(v_proj|down_proj)"):
                merge_adapter(policy(), adapter)
        state[name] = magnitude[:, None] * state[name] / state[name].norm(dim=1, keepdim=True)
    save_file({**lora, **magnitudes}, adapter / "adapter_model.safetensors")
    assert_merged(merge_adapter(policy(), adapter), state)


@pytest.mark.parametrize(
    "kind", [{"peft_type": "IA3"}, {"peft_type": "NONSENSE"}, {"r": "four"}, {"r": None}]
)
def test_other_adapters_are_refused(adapter: Path, kind: dict[str, object]) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **kind}))
    model = policy()
    with pytest.raises(UserError, match="adapter"):
        merge_adapter(model, adapter)
    assert_merged(model, policy().state_dict())


def test_what_does_not_fit_is_named_and_the_model_left_alone(
    adapter: Path, lora: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
) -> None:
    model = policy()
    weights = adapter / "adapter_model.safetensors"
    name = f"{PEFT}{MODULES[0]}.lora_B.weight"
    for change, message in (
        (
            {k.replace("layers.1", "layers.9"): v for k, v in lora.items()},
            rf"{PEFT}model\.layers\.9.* fits nothing in the model",
        ),
        (
            {k: v for k, v in lora.items() if k != name},
            "only lora_A for model.language_model.layers.0.self_attn.q_proj",
        ),
    ):
        save_file(change, weights)
        with pytest.raises(UserError, match=message):
            merge_adapter(model, adapter)
    weights.write_bytes(b"x")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged"):
        merge_adapter(model, adapter)
    save_file(lora, weights)
    for change, message in (
        (
            others | {f"{PEFT}model.mm_projector.4.bias": torch.zeros(3)},
            r"mm_projector\.4\.bias fits nothing in the model",
        ),
        (
            others | {f"{PEFT}model.mm_projector.2.bias": torch.zeros(3)},
            r"mm_projector\.2\.bias has the shape \(3,\), the model's \(48,\)",
        ),
    ):
        torch.save(change, adapter / "non_lora_trainables.bin")
        with pytest.raises(UserError, match=message):
            merge_adapter(model, adapter)
    (adapter / "non_lora_trainables.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"non_lora_trainables\.bin: is damaged"):
        merge_adapter(model, adapter)
    assert_merged(model, policy().state_dict())


def test_adapters_that_would_change_nothing_are_refused(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 0}))
    with pytest.raises(UserError, match="lora_alpha=0, with which the adapters would change nothing"):
        merge_adapter(policy(), adapter)


def test_adapters_of_whole_numbers_are_refused(adapter: Path) -> None:
    for file in adapter.glob("adapter_model.*"):
        file.unlink()
    torch.save({"a": torch.ones(2, 2, dtype=torch.int8)}, adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="a holds whole numbers"):
        merge_adapter(policy(), adapter)
