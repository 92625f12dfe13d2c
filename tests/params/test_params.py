"""Parameters: the method's defaults, and messages that name what is wrong and what is allowed."""

from typing import Any

import pandas as pd
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import (
    DataGenerationParams,
    LoopParams,
    LoraParams,
    OpenAIParams,
    Parameters,
    TransformersParams,
    complete_parameters,
    validate_parameters,
)
from rlaifv_kedro.pipelines.data_generation.nodes import draw_prompts


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        validate_parameters(raw)
    return caught.value.message


def test_defaults_are_the_method_s() -> None:
    """arXiv 2405.17220 and the release's scripts: what a recipe does not set is what the paper did."""
    parameters = validate_parameters({})
    generation, feedback, training = parameters.data_generation, parameters.feedback, parameters.training
    assert parameters.loop.iterations == 4
    assert (generation.prompts, generation.candidates, generation.temperature, generation.max_new_tokens) == (
        4000,
        10,
        0.7,
        512,
    )
    assert (
        feedback.min_score_gap,
        feedback.pairs_per_prompt,
        feedback.balance_lengths,
        feedback.scoring,
    ) == (1, 2, True, "claims")
    assert feedback.question_template.format(question="Is it?") == "Is it? Please answer yes or no."
    assert (feedback.yes_words, feedback.no_words) == (["yes", "Yes"], ["no", "No"])
    assert (
        training.beta,
        training.learning_rate,
        training.batch_size,
        training.epochs,
        training.checkpoint_every,
    ) == (0.1, 5e-7, 8, 4, 0.25)
    assert (training.warmup_ratio, training.weight_decay, training.gradient_checkpointing) == (
        0.05,
        0.01,
        True,
    )
    assert (training.dpo_weight, training.sft_weight, training.lora, training.pack) == (1, 0, None, "pair")
    assert training.freeze is None and LoraParams().projector
    assert (LoraParams().rank, LoraParams().alpha, LoraParams().dropout) == (64, 16, 0.05)
    assert parameters.compute.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"trainning": {}}, "trainning: unknown parameter; did you mean training?"),
        ({"training": {"betta": 1}}, "training.betta: unknown parameter; did you mean training.beta?"),
        (
            {"training": {"lora": {"ranks": 8}}},
            "training.lora.ranks: unknown parameter; did you mean training.lora.rank?",
        ),
        ({"loop": {"zzz": 1}}, "loop.zzz: unknown parameter; known here: iterations"),
    ],
)
def test_unknown_keys_are_named_with_a_suggestion(raw: dict, line: str) -> None:
    assert line in refusal(raw)


@pytest.mark.parametrize(
    ("raw", "value", "allowed"),
    [
        ({"training": {"beta": 0}}, "training.beta=0: ", "> 0 and <= 10000"),
        ({"training": {"epochs": 1e300}}, "training.epochs=1e+300: ", "> 0 and <= 10000"),
        ({"training": {"checkpoint_every": 1e300}}, "training.checkpoint_every=1e+300: ", "<= 10000"),
        ({"training": {"lora": {"rank": 10**9}}}, "training.lora.rank=1000000000: ", "<= 8192"),
        ({"training": {"freeze": [""]}}, "training.freeze.0='': ", "at least 1 character"),
        ({"training": {"learning_rate": 1.0}}, "training.learning_rate=1.0: ", "> 0 and < 1"),
        ({"training": {"label_smoothing": 0.5}}, "training.label_smoothing=0.5: ", ">= 0 and < 0.5"),
        (
            {"training": {"log_probs": "average"}},
            "training.log_probs='average': ",
            "'sum', 'mean' or 'weighted'",
        ),
        ({"training": {"warmup_ratio": 1.5}}, "training.warmup_ratio=1.5: ", ">= 0 and <= 1"),
        ({"training": {"lora": {"dropout": 1}}}, "training.lora.dropout=1: ", ">= 0 and < 1"),
        ({"data_generation": {"candidates": 1}}, "data_generation.candidates=1: ", ">= 2 and <= 1000"),
        ({"loop": {"iterations": 0}}, "loop.iterations=0: ", ">= 1 and <= 100"),
        ({"seed": -1}, "seed=-1: ", ">= 0 and < 2147483648"),
        ({"compute": {"dtype": "int8"}}, "compute.dtype='int8': ", "'float32', 'bfloat16' or 'float16'"),
        (
            {"feedback": {"question_template": "yes or no?"}},
            "feedback.question_template='yes or no?': ",
            "{question",
        ),
        ({"feedback": {"yes_words": [3]}}, "feedback.yes_words.0=3: ", "string"),
        ({"training": {"epochs": float("inf")}}, "training.epochs=inf: ", "finite"),
        ({"training": {"beta": float("nan")}}, "training.beta=nan: ", "finite"),
        ({"training": 3}, "training=3: ", "dictionary"),
        ({"training": None}, "training=None: ", "dictionary"),
    ],
)
def test_impossible_values_are_named_with_the_allowed_range(raw: dict, value: str, allowed: str) -> None:
    line = next(line for line in refusal(raw).splitlines() if value in line)
    assert allowed in line.partition(value)[2].replace("\\", "")


def test_a_training_without_an_objective_is_refused() -> None:
    """Every gradient would be 0, and only the weight decay would move the weights."""
    assert "dpo_weight and sft_weight are both 0" in refusal({"training": {"dpo_weight": 0}})


def test_all_mistakes_are_told_at_once() -> None:
    message = refusal({"seed": -1, "loop": {"iterations": 0}, "report": {}})
    assert sum(line.startswith("  - ") for line in message.splitlines()) == 3


def test_a_pool_smaller_than_the_loop_needs_is_refused_at_the_first_iteration() -> None:
    """4 iterations of 10 prompts need 40: 39 are too few."""
    params, loop = DataGenerationParams(prompts=10), LoopParams(iterations=4)
    pool = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(39)]})
    with pytest.raises(UserError, match=r"4 iterations .*prompts=10 need 40 prompts, but prompt_pool has 39"):
        draw_prompts(pool, 1, 0, params, loop)


def test_parameters_can_not_change_after_they_were_checked() -> None:
    parameters = Parameters()
    with pytest.raises(ValueError, match="frozen"):
        parameters.training.beta = 0.0


def test_adapters_of_the_policy_are_merged_once_before_the_loop() -> None:
    """Merged at each loading they would be in every policy that is trained, and be merged into it again."""
    assert "merge them once (rlaifv merge" in refusal({"models": {"policy": {"adapter": "lora"}}})


SERVED = {"backend": "openai", "url": "http://127.0.0.1:8000/v1", "model": "m"}


@pytest.mark.parametrize(
    ("role", "given", "line"),
    [
        (
            "labeler",
            {"url": "http://127.0.0.1:8000/v1"},
            "models.labeler.url: only backend: openai has it; set models.labeler.backend=openai, or leave it",
        ),
        ("labeler", {"price_input": 2}, "models.labeler.price_input: only backend: openai has it"),
        ("judge", {"backend": "vllm", "path": "llm", "adapter": "lora"}, "only backend: transformers has it"),
        (
            "splitter",
            {**SERVED, "path": "llm"},
            "models.splitter.path: only the backends transformers and vllm have it; "
            "set models.splitter.backend=transformers, or leave it out (where a recipe sets it: "
            "models.splitter.path=null)",
        ),
        ("labeler", {"pth": "x"}, "models.labeler.pth: unknown parameter; did you mean models.labeler.path?"),
        (
            "labeler",
            {"backend": "vlm"},
            "models.labeler.backend='vlm': input should be one of 'transformers'",
        ),
        (
            "labeler",
            {**SERVED, "url": "localhost:8000"},
            "models.labeler.url='localhost:8000': it is no addre",
        ),
        ("labeler", {**SERVED, "url": "http://127.0.0.1:port/v1"}, "it is no address"),
        ("labeler", {**SERVED, "url": ["http://a/v1", "b"]}, "it is no address"),
        ("labeler", {**SERVED, "url": ["http://a/v1", "http://a/v1"]}, "an address stands there twice"),
        ("labeler", {**SERVED, "url": []}, "there is no address"),
        ("labeler", {**SERVED, "model": ""}, "models.labeler.model=''"),
        ("labeler", {**SERVED, "retries": -1}, "models.labeler.retries=-1: "),
        ("judge", {"backend": "openai", "model": "m"}, "models.judge.url is missing: the server's address"),
        ("judge", {"backend": "openai", "url": "http://a/v1"}, "models.judge.model is missing: the name"),
        ("judge", {}, "it names no model: set its path"),
        ("question_writer", {"backend": "vllm"}, "it names no model: set its path"),
        ("policy", SERVED, "set the entry base_policy there"),
        ("policy", {"path": "llava"}, "set the entry base_policy there"),
    ],
)
def test_a_model_has_what_its_backend_has(role: str, given: dict[str, Any], line: str) -> None:
    assert line in refusal({"models": {role: given}})


def test_a_backend_goes_without_what_other_backends_have() -> None:
    """A run of an earlier version recorded all fields of all backends, and null unsets a recipe's path."""
    models = validate_parameters({"models": {"labeler": {**SERVED, "path": None}}}).models
    assert models.labeler == OpenAIParams(url="http://127.0.0.1:8000/v1", model="m")
    old = {"backend": "transformers", "path": "llm", "url": None, "concurrency": 16, "price_input": 0.0}
    assert validate_parameters({"models": {"splitter": old}}).models.splitter == TransformersParams(
        path="llm"
    )


def test_the_recorded_form_names_the_backend_and_is_read_again() -> None:
    raw = {"models": {"labeler": SERVED, "splitter": {"backend": "vllm", "path": "llm"}}}
    recorded = complete_parameters(raw)
    assert [recorded["models"][role]["backend"] for role in ("policy", "labeler", "splitter")] == [
        "transformers",
        "openai",
        "vllm",
    ]
    assert complete_parameters(recorded) == recorded
