"""What another value of each parameter changes is said on purpose, and who reads a parameter is noted."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rlaifv_kedro.params import ModelsParams, OpenAIParams, TrainingParams, TransformersParams
from rlaifv_kedro.params.base import Effect, noting, without_note
from rlaifv_kedro.params.effects import all_effects, effect_of

DOCS = Path(__file__).parents[2] / "docs/runs.md"
ROLES = ("policy", "labeler", "splitter", "question_writer", "judge")
RESULT = """
seed iteration run_id replay compute.dtype
models.ROLE.path models.ROLE.dtype models.ROLE.chat_template models.ROLE.image_aspect_ratio
models.ROLE.trust_remote_code models.ROLE.backend models.ROLE.adapter models.ROLE.model
models.ROLE.top_logprobs models.ROLE.serving.engine_options models.question_writer models.judge
miniature.pool_scenes miniature.selection_scenes miniature.test_scenes miniature.benchmark_scenes
miniature.training_scenes miniature.policy_scenes miniature.training_fifth_share miniature.double_share
miniature.training_double_share miniature.labeler_double_share miniature.error_rate miniature.effort
loop.iterations
data_generation.prompts data_generation.candidates data_generation.temperature data_generation.top_k
data_generation.repetition_penalty data_generation.max_new_tokens data_generation.cut_off
feedback.splitter feedback.divide_prompt feedback.question_prompt feedback.splitter_temperature
feedback.splitter_top_p feedback.splitter_max_new_tokens feedback.splitter_tries feedback.count_repeats
feedback.scoring feedback.labeler feedback.question_template feedback.yes_words feedback.no_words
feedback.min_verdict_mass feedback.min_score_gap feedback.pairs_per_prompt feedback.balance_lengths
reward.ranking
training.mix training.learning_rate training.beta training.log_probs training.changed_weight
training.label_smoothing training.dpo_weight training.sft_weight training.epochs training.batch_size
training.pack training.max_length training.truncation training.checkpoint_every training.warmup_ratio
training.weight_decay training.adam_beta2 training.max_grad_norm training.freeze training.lora
training.lora.rank training.lora.alpha training.lora.dropout training.lora.projector training.deepspeed
evaluation.max_new_tokens evaluation.criterion evaluation.best_of evaluation.best_of_temperature
evaluation.best_of_top_k evaluation.best_of_repetition_penalty evaluation.best_of_reward
evaluation.select_on evaluation.collapse.length_change evaluation.collapse.repeat_increase
evaluation.collapse.recall_drop evaluation.collapse.empty_share evaluation.benchmarks evaluation.policy
judge.temperature judge.retry_temperature judge.max_new_tokens judge.tries
benchmark_data.vocabulary benchmark_data.chair_images benchmark_data.chair_split benchmark_data.chair_prompt
benchmarks.beams benchmarks.max_new_tokens benchmarks.yes_no_tokens benchmarks.extraction
benchmarks.object_halbench_pipeline benchmarks.amber_pipeline benchmarks.amber_answers
benchmarks.refomb_runs benchmarks.refomb_swap benchmarks.object_halbench_prompt benchmarks.mmhal_prompt
benchmarks.refomb_overall_prompt benchmarks.refomb_trustworthiness_prompt
export.source
"""


def by_role(names: set[str]) -> set[str]:
    """Full names, each role's for ``models.ROLE``."""
    return {name.replace("ROLE", role) for name in names for role in ROLES}


def documented(effect: Effect) -> set[str]:
    """The names in the row of docs/runs.md."""
    [row] = re.findall(rf"^\| {effect.value} \|.*$", DOCS.read_text(), re.MULTILINE)
    return by_role(set(re.findall(r"`([a-z_.A-Z]+)`", row)))


def test_every_parameter_is_one_or_the_other_on_purpose() -> None:
    """A new parameter is written here, or marked and written in docs/runs.md."""
    known = dict(all_effects())
    marked = {effect: {name for name, own in known.items() if own is effect} for effect in Effect}
    assert marked[Effect.RESULT] == by_role(set(RESULT.split()))
    for effect in (Effect.EXECUTION, Effect.DIVISION):
        assert marked[effect] == documented(effect)


def test_all_backends_agree_on_a_parameter() -> None:
    assert len(set(all_effects())) == len({name for name, _ in all_effects()})


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("models.judge.url", Effect.EXECUTION),
        ("models.judge.model", Effect.RESULT),
        ("training.launch.processes", Effect.DIVISION),
        ("training.mix.preference_pairs.weight", Effect.RESULT),  # the keys of a dict are the user's own
        ("no.such.parameter", Effect.RESULT),
    ],
)
def test_the_effect_of_a_parameter(name: str, effect: Effect) -> None:
    assert effect_of(name) is effect


class Holder(BaseModel):
    """A model that others are written within, as a training's specification."""

    training: TrainingParams


@pytest.mark.parametrize(
    ("use", "reads"),
    [
        (lambda p: p.beta, {"training.beta"}),
        (lambda p: p.launch.hosts, {"training.launch.hosts"}),
        (lambda p: p.launch, set()),
        (lambda p: p.lora is None, {"training.lora"}),
        (
            lambda p: p.micro_batch(),
            {
                "training.micro_batch_size",
                "training.batch_size",
                "training.launch.processes",
                "training.launch.hosts",
            },
        ),
        (lambda p: p.autocast("float32"), set()),
        (lambda p: p.autocast("bfloat16"), {"training.deepspeed"}),
        (lambda p: isinstance(p, TrainingParams), set()),
    ],
)
def test_what_is_read_is_noted_by_its_full_name(use: Callable[[Any], Any], reads: set[str]) -> None:
    noted: set[str] = set()
    use(noting(TrainingParams(), "training", noted))
    assert noted == reads


@pytest.mark.parametrize(
    "use",
    [
        TrainingParams.model_dump,
        TrainingParams.model_dump_json,
        TrainingParams.model_copy,
        copy.deepcopy,
        pickle.dumps,
        repr,
        vars,
        dict,
        lambda p: p == TrainingParams(),
        lambda p: Holder(training=p).model_dump_json(),
    ],
)
def test_what_takes_a_group_whole_has_read_all_of_it(use: Callable[[Any], Any]) -> None:
    noted: set[str] = set()
    use(noting(TrainingParams(), "training", noted))
    assert "training" in noted


@pytest.mark.parametrize(
    ("use", "reads"),
    [
        (lambda m: m.judge is None, {"models.judge"}),
        (lambda m: isinstance(m.labeler, OpenAIParams), {"models.labeler"}),
    ],
)
def test_a_group_that_might_be_another_is_read_whole(use: Callable[[Any], Any], reads: set[str]) -> None:
    """Whether it is there, and of which backend, is told by the object, not by a field of it."""
    noted: set[str] = set()
    models = ModelsParams(judge=OpenAIParams(url="http://127.0.0.1:1/v1", model="m"))
    use(noting(models, "models", noted))
    assert noted == reads


def test_noting_changes_nothing_else() -> None:
    models = ModelsParams(judge=OpenAIParams(url="http://127.0.0.1:1/v1", model="m"))
    noted: set[str] = set()
    copied = noting(models, "models", noted)
    assert copied == models
    assert isinstance(copied.labeler, TransformersParams)
    noted.clear()
    assert (copied.judge.model, copied.question_writer) == ("m", None)
    assert noted == {"models.judge", "models.judge.model", "models.question_writer"}


def test_parameters_without_their_note_are_the_same_and_read_by_nobody() -> None:
    noted: set[str] = set()
    given = TrainingParams(beta=0.3, lora={"rank": 8})
    plain = without_note(noting(given, "training", noted))
    assert noted == set()
    assert type(plain) is TrainingParams and plain.model_dump() == given.model_dump()
    assert (plain.beta, plain.lora.rank, noted) == (0.3, 8, set())
