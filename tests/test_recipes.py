"""Recipes for real models: what each sets is known, differs from the miniature, is explained, and nothing
of the miniature shines through.
"""

import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io.core import is_parameter

from rlaifv_kedro.formats import flatten, gigabytes
from rlaifv_kedro.params import LaunchParams, LoraParams, Parameters, VLLMParams
from rlaifv_kedro.preflight import sizes
from rlaifv_kedro.preflight.resources import memory_needs
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.shapes import image_patches, image_tokens
from rlaifv_kedro.preflight.sizes import ModelSize, run_disk
from rlaifv_kedro.runs.kedro_private import dataset, filepath, is_versioned

ROOT = Path(__file__).parents[1]
RECIPES = ["llava15_7b", "llava15_7b_minicpm", "rlaifv_12b", "qwen"]
OWN_CHOICE = {
    "compute.device",
    "training.micro_batch_size",
    "training.freeze",
    "feedback.labeler",
    "data_generation.repetition_penalty",
    "evaluation.best_of_repetition_penalty",
}
"""Beside the models' paths: what a recipe may set otherwise than the method's defaults."""
MODELS = ("base_policy", "labeler", "reward_policy", "reward_reference")


def read(env: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conf" / env / f"{name}.yml").read_text())


@cache
def loaded(env: str | None) -> tuple[Parameters, Any, Any]:
    """Parameters, catalog and loop as a run with this environment gets them."""
    bootstrap_project(ROOT)
    with KedroSession.create(ROOT, env=env) as session:
        context = session.load_context()
        pipelines.set_requested(None)
        return (
            Parameters.model_validate(context.config_loader["parameters"]),
            context.catalog,
            pipelines["rlaif_loop"],
        )


@pytest.mark.parametrize("env", RECIPES)
def test_every_knob_differs_from_the_miniature_s(env: str) -> None:
    """An unknown key is refused when the session starts."""
    embedded = flatten(loaded("base")[0].model_dump())
    same = {
        name
        for name, value in flatten(read(env, "parameters")).items()
        if name in embedded and embedded[name] == value
    }
    assert same == set()
    base = yaml.safe_load((ROOT / "conf/base/catalog_world.yml").read_text())
    entries = read(env, "catalog")
    assert set(entries) <= set(base)
    assert all(entry["filepath"] != base[name]["filepath"] for name, entry in entries.items())


@pytest.mark.parametrize("env", RECIPES)
def test_nothing_of_the_miniature_shines_through(env: str) -> None:
    """conf/base lies below a recipe, and sets much for half a million parameters."""
    method, effective = flatten(Parameters().model_dump()), flatten(loaded(env)[0].model_dump())
    assert effective["feedback.splitter"] == "llm"
    others = {
        name
        for name in effective
        if effective[name] != method.get(name) and not name.startswith(("models.", "miniature."))
    }
    assert others <= OWN_CHOICE


@pytest.mark.parametrize("env", RECIPES)
def test_a_run_reads_no_file_of_the_miniature(env: str) -> None:
    _, catalog, loop = loaded(env)
    for name in (entry for entry in loop.inputs() if not is_parameter(entry)):
        found = dataset(catalog, name)
        if getattr(found, "IS_FILE", True):
            assert "miniature" not in str(filepath(found)), name
            assert not is_versioned(found), f"{name} is the user's own"


@pytest.mark.parametrize(
    ("env", "policy", "reference"),
    [
        ("llava15_7b", "RLAIF-V-7B", "llava-v1.5-7b"),
        ("llava15_7b_minicpm", "RLAIF-V-7B", "llava-v1.5-7b"),
        ("rlaifv_12b", "RLAIF-V-12B", "OmniLMM-12B"),
        ("qwen", "iteration_4/trained_policy", "Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_a_reward_is_a_policy_against_what_it_was_trained_from(env: str, policy: str, reference: str) -> None:
    """Where no aligned weights are published, the loop's own."""
    catalog = loaded(env)[1]
    assert str(catalog.get("reward_policy")._filepath).endswith(f"data/06_models/{policy}")
    assert str(catalog.get("reward_reference")._filepath).endswith(f"data/06_models/{reference}")


@pytest.mark.parametrize("env", RECIPES)
@pytest.mark.parametrize("file", ["parameters", "catalog"])
def test_every_knob_is_explained_beside_it(env: str, file: str) -> None:
    lines = (ROOT / "conf" / env / f"{file}.yml").read_text().splitlines()
    knobs = (
        [line for line in lines if re.match(r" +[a-z_0-9]+: *\S", line)]
        if file == "parameters"
        else [x for x in lines if re.match(r"\w+:", x)]
    )
    assert len(knobs) > 9
    assert [line for line in knobs if len(line.partition("#")[2].split()) < 4] == []


def test_llava_is_what_the_paper_and_the_release_did() -> None:
    """arXiv 2405.17220; script/train/llava15_train.sh and script/data_gen of github.com/RLHF-V/RLAIF-V."""
    p = loaded("llava15_7b")[0]
    generation, training = p.data_generation, p.training
    assert (p.loop.iterations, generation.prompts, generation.candidates) == (4, 4000, 10)
    assert (generation.temperature, generation.max_new_tokens) == (0.7, 512)
    assert (training.beta, training.learning_rate, training.batch_size, training.epochs) == (0.1, 5e-7, 8, 4)
    assert (training.checkpoint_every, training.max_length, training.gradient_checkpointing) == (
        0.25,
        2048,
        True,
    )
    assert (p.compute.dtype, p.feedback.labeler, p.models.question_writer is None) == (
        "bfloat16",
        "fixed",
        False,
    )


def test_what_recipes_share_does_not_drift_apart() -> None:
    assert read("llava15_7b", "parameters") == read("llava15_7b_minicpm", "parameters")
    shared = [
        {name: entry for name, entry in read(env, "catalog").items() if name not in MODELS} for env in RECIPES
    ]
    assert all(entries == shared[0] for entries in shared)
    assert loaded("rlaifv_12b")[0].feedback.labeler == "self"


@cache
def real_size(name: str) -> ModelSize:
    """A model of real shape, without its numbers. Llama-3 and Qwen: the values of their config.json."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration
    from transformers import Qwen2_5_VLConfig as QwenConfig
    from transformers import Qwen2_5_VLForConditionalGeneration as Qwen

    from rlaifv_kedro.models.minicpm_v.configuration import MiniCPMVConfig
    from rlaifv_kedro.models.minicpm_v.modeling import MiniCPMV
    from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
    from rlaifv_kedro.models.omnilmm.modeling import OmniLMMForConditionalGeneration

    llama = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    qwen = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    eyes = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "num_heads": 16,
    }
    cls, config = {
        "llava": lambda: (
            LlavaForConditionalGeneration,
            LlavaConfig(text_config=LlamaConfig(vocab_size=32064)),
        ),
        "omnilmm": lambda: (OmniLMMForConditionalGeneration, OmniLMMConfig(vocab_size=32003)),
        "minicpm": lambda: (MiniCPMV, MiniCPMVConfig(query_num=96, **llama)),
        "llama": lambda: (LlamaForCausalLM, LlamaConfig(**llama)),
        "qwen": lambda: (Qwen, QwenConfig(text_config=qwen, vision_config=eyes, tie_word_embeddings=False)),
    }[name]()
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in cls(config).named_parameters()}
    text = config.get_text_config()
    kv_width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return ModelSize(
        parameters,
        text.hidden_size,
        text.num_hidden_layers,
        kv_width,
        text.vocab_size,
        image_tokens(config),
        shapes,
        image_patches(config),
    )


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llava", 7.06), ("omnilmm", 11.6), ("minicpm", 8.5), ("llama", 8.03), ("qwen", 8.29)],
)
def test_real_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert real_size(name).parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("env", "policy", "labeler", "splitters"),
    [
        ("llava15_7b", "llava", "omnilmm", ["llama", "llama"]),
        ("llava15_7b_minicpm", "llava", "minicpm", ["llama", "llama"]),
        ("rlaifv_12b", "omnilmm", "omnilmm", ["llama", "llama"]),
        ("qwen", "qwen", "qwen", ["qwen"]),
    ],
)
def test_the_hardware_table_of_the_docs_is_what_the_estimates_say(
    env: str, policy: str, labeler: str, splitters: list[str]
) -> None:
    parameters, catalog, loop = loaded(env)
    setup = RunSetup(parameters, loop, catalog)
    known = {
        "policy": real_size(policy),
        "labeler": real_size(labeler),
        **dict(zip(("splitter", "question_writer"), map(real_size, splitters))),
    }
    lora = parameters.model_copy(
        update={"training": parameters.training.model_copy(update={"lora": LoraParams()})}
    )
    needs = {need.stage: need.bytes for need in memory_needs(setup, known)}
    with_adapters = memory_needs(RunSetup(lora, loop, catalog), known)
    adapters = {need.stage: need.bytes for need in with_adapters}["training"]
    disks = [
        sum(run_disk(p, known["policy"], 120_000, 4, setup.written).values()) for p in (parameters, lora)
    ]
    cells = map(
        gigabytes,
        (needs["sampling"], needs["dividing"], needs["labeling"], needs["training"], adapters, *disks),
    )
    row = " | ".join([f"| `{env}`", *cells]) + " |"
    assert row in (ROOT / "docs/recipes.md").read_text().splitlines(), row


def test_a_served_model_is_spread_over_its_servers_gpus() -> None:
    """vLLM's cache takes what the weights leave, so only these must fit."""
    parameters, catalog, loop = loaded("qwen")
    served = VLLMParams(dtype="bfloat16", serving={"gpus_per_server": 4})
    models = parameters.models.model_copy(update={"labeler": served})
    setup = RunSetup(parameters.model_copy(update={"models": models}), loop, catalog)
    known = {"policy": real_size("qwen"), "labeler": real_size("qwen")}
    needs = {need.stage: need.bytes for need in memory_needs(setup, known)}
    assert needs.keys() == {"serving", "sampling", "training"}
    assert needs["serving"] == known["labeler"].parameters * 2 // 4 + sizes.RESERVE


@pytest.mark.parametrize("gpus", [1, 4, 8, 16])
def test_the_table_of_engines_is_what_the_estimates_say(gpus: int) -> None:
    """One pair a GPU and step."""
    parameters, _, _ = loaded("llava15_7b")
    launch = {"launch": LaunchParams(processes=gpus), "batch_size": gpus, "micro_batch_size": 1}
    engines = [
        None,
        *(
            str(ROOT / f"conf/deepspeed/{name}.json")
            for name in ("zero2", "zero3", "zero2_offload", "zero3_offload")
        ),
    ]
    cells = [
        gigabytes(
            sizes.training_memory(
                real_size("llava"),
                parameters.training.model_copy(update=launch | {"deepspeed": engine}),
                512,
                "bfloat16",
            )
        )
        for engine in engines
    ]
    row = f"| {gpus} | " + " | ".join(cells) + " |"
    assert row in (ROOT / "docs/training.md").read_text().splitlines(), row


def test_memory_worked_by_hand(tmp_path: Path) -> None:
    """A policy of 1,000 parameters: 100 frozen (``tower``), 900 learn. bfloat16, 1 pair at a time, image 36 +
    question 64 = 100 tokens.

    Full: learning 900 x (4 weight + 4 gradient + 8 Adam + 2 copy) = 16,200; frozen 100 x 2 = 200. Two answers
    of 50 tokens: 100 + 100 = 200 tokens. Activations: 2 layers x width 10 x 4 bytes x 200 = 16,000, and one
    layer, 34 x 10 x 200 = 68,000. Logits: 12 x 20 words x 100 = 24,000. LoRA of rank 4 on one layer of 30 ->
    20: 4 x 50 = 200 learn, x 18 = 3,600; all 1,000 weights x 2. Four processes, 900 learn: DDP one float32
    bucket more, 900 x 22. ZeRO-2 in bfloat16: Adam with its copy 900 x 12 / 4 = 2,700, gradients 900 x 2 / 4
    = 450, all weights 2,000; ZeRO-3 weights 2,000 / 4; offloading leaves gradients and, in stage 2, weights.
    Sampling, 2 prompts of 3 candidates of 50 tokens: 2 x (100 + 150) = 500 tokens; a token 2 x 2 layers x 5 x
    2 bytes = 40. A checkpoint: 900 x 4 + 100 x 2 = 3,800, and Adam's 900 x 8 beside it; of adapters 200 x 4
    and 200 x 8.
    """
    size = ModelSize(
        1000, 10, 2, 5, 20, 36, {"tower.x": (100,), "lm.q_proj.weight": (20, 30), "lm.norm": (300,)}
    )
    full = Parameters.model_validate({"training": {"micro_batch_size": 1, "freeze": ["tower"]}}).training
    assert (
        sizes.training_memory(size, full, 50, "bfloat16") - sizes.RESERVE
        == 16_200 + 200 + 16_000 + 68_000 + 24_000
    )
    assert (
        sizes.training_memory(size, full, 50, "float32") - sizes.RESERVE
        == 900 * 16 + 100 * 4 + 16_000 + 68_000 + 24_000
    )
    lora = full.model_copy(update={"lora": LoraParams(rank=4)})
    assert (
        sizes.training_memory(size, lora, 50, "bfloat16") - sizes.RESERVE
        == 3_600 + 2_000 + 16_000 + 68_000 + 24_000
    )
    four = {"launch": LaunchParams(processes=4), "batch_size": 4}
    rest = sizes.RESERVE + 16_000 + 68_000 + 24_000
    for engine, bytes_ in {
        None: 900 * 22 + 200,
        "zero2": 5_150,
        "zero3": 3_650,
        "zero2_offload": 2_450,
        "zero3_offload": 450,
    }.items():
        spread = full.model_copy(
            update=four | {"deepspeed": engine and str(ROOT / f"conf/deepspeed/{engine}.json")}
        )
        assert sizes.training_memory(size, spread, 50, "bfloat16") - rest == bytes_, engine
    # Without activations worth the name, DeepSpeed's step is what counts: gradients of a fourth, twice.
    wide = replace(size, layers=0, vocabulary=0, hidden=0)
    zero2 = full.model_copy(update=four | {"deepspeed": str(ROOT / "conf/deepspeed/zero2.json")})
    assert sizes.training_memory(wide, zero2, 50, "bfloat16") - sizes.RESERVE == 5_150 + 900 * (4 + 2) // 4
    assert sizes.training_memory(wide, full, 50, "bfloat16") - sizes.RESERVE == 16_200 + 200
    written = json.loads((ROOT / "conf/deepspeed/zero3.json").read_text())
    for given, copied in (({}, 225), ({"sub_group_size": "auto"}, 225), ({"sub_group_size": 1e2}, 100)):
        stage3 = written["zero_optimization"] | given | {"offload_optimizer": {"device": "none"}}
        own = tmp_path / "zero3.json"
        own.write_text(json.dumps(written | {"zero_optimization": stage3}))
        zero3 = full.model_copy(update=four | {"deepspeed": str(own)})
        assert sizes.training_memory(wide, zero3, 50, "bfloat16") - sizes.RESERVE == 3_650 + copied * 6
    generation = Parameters.model_validate(
        {"data_generation": {"batch_size": 2, "candidates": 3, "max_new_tokens": 50}}
    ).data_generation
    assert sizes.sampling_memory(size, generation, "bfloat16") - sizes.RESERVE == 2_000 + 500 * 40
    assert sizes.checkpoint_disk(size, full, "bfloat16") == (3_800, 7_200)
    assert sizes.checkpoint_disk(size, lora, "bfloat16") == (800, 1_600)
