"""What a message advises can be followed under the same run id: at once, or after deleting what it names."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from begun_runs import begin
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Parameters, complete_parameters
from rlaifv_kedro.params.base import Effect
from rlaifv_kedro.params.command_line import read, types_at
from rlaifv_kedro.params.effects import effect_of
from rlaifv_kedro.preflight.run import configured
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs.changes import changes_since, made_nodes, refuse
from rlaifv_kedro.runs.kedro_private import dataset, path_of
from rlaifv_kedro.runs.manifest import Entry, Manifest, NodeRecord
from rlaifv_kedro.runs.running_nodes import RunningNode
from source_texts import named_parameters

ENV = "llava15_7b"
START = "data_generation.prompts=4,loop.iterations=2,compute.device=cpu"
DRAW, SAMPLE = "data_generation.draw_prompts", "data_generation.sample_candidates"
DIVIDE, VERIFY, SCORE = "feedback.divide", "feedback.verify_claims", "feedback.score_candidates"
PAIRS, GATHER = "feedback.build_pairs", "training.gather_pairs"
REFERENCE, TRAIN = "training.compute_reference", "training.train_policy"
SELECT, ANSWER = "evaluation.select_checkpoint", "evaluation.answer_test_prompts"
ADVICE = [
    (DRAW, "data_generation.prompts=2"),
    (DRAW, "loop.iterations=1"),
    (SAMPLE, "data_generation.top_k=null"),
    (SAMPLE, "data_generation.repetition_penalty=1.1"),
    (SAMPLE, "data_generation.batch_size=1"),
    (DIVIDE, "data_generation.max_new_tokens=1024"),
    (DIVIDE, "data_generation.cut_off=keep"),
    (DIVIDE, "feedback.splitter_batch_size=1"),
    (DIVIDE, "feedback.max_reject_share=0.5"),
    (DIVIDE, "models.question_writer=null"),
    (DIVIDE, "models.splitter.path=other"),
    (VERIFY, "feedback.yes_words=[oui]"),
    (VERIFY, "feedback.no_words=[non]"),
    (VERIFY, "feedback.question_template={question} Yes or no?"),
    (VERIFY, "feedback.min_verdict_mass=0.4"),
    (VERIFY, "feedback.batch_size=1"),
    (VERIFY, "compute.engine=ray"),
    (VERIFY, "compute.ray.workers=2"),
    (VERIFY, "compute.ray.gpus_per_worker=0.5"),
    (VERIFY, "compute.ray.address=auto"),
    (SCORE, "feedback.scoring=answer"),
    (PAIRS, "data_generation.candidates=20"),
    (PAIRS, "data_generation.temperature=1"),
    (GATHER, "training.mix={ours: {weight: 1}}"),
    (GATHER, "training.max_length=4096"),
    (REFERENCE, "training.max_reject_share=0.5"),
    (REFERENCE, "training.freeze=[vision]"),
    (TRAIN, "training.lora.projector=false,training.lora.rank=8"),
    (TRAIN, "training.micro_batch_size=1"),
    (TRAIN, "training.gradient_checkpointing=false"),
    (TRAIN, "training.launch.processes=2"),
    (TRAIN, "training.launch.address=localhost:29500"),
    (TRAIN, "training.launch.prefix=[srun]"),
    (TRAIN, "training.dataloader_num_workers=3"),
    (TRAIN, "training.deepspeed=conf/deepspeed/zero3.json"),
    (TRAIN, "training.checkpoint_every=0.5"),
    (TRAIN, "training.learning_rate=1e-6"),
    (TRAIN, "training.max_grad_norm=0.5"),
    (TRAIN, "training.collapse_log_ratio=-400"),
    (SELECT, "training.beta=0.2"),
    (SELECT, "training.epochs=2"),
    (SELECT, "evaluation.keep_best=null"),
    (ANSWER, "evaluation.max_new_tokens=2048"),
]
"""(node whose message it is, what it advises)."""
BEFORE_THE_FIRST_NODE = {
    "data_generation.chunk_size",
    "feedback.chunk_size",
    "reward.chunk_size",
    "training.batch_size",
    "training.chunk_size",
    "training.lora",
    "training.report_to",
    "training.warmup_ratio",
    "models.policy.backend",
    "models.policy.device_map",
    "compute.device",
    "fetching.private_hosts",
    "miniature.pool_scenes",
}
"""Named by the check, the plan, or what every run asks before its first node: nothing is made yet."""
OF_BENCHMARKS = ("benchmark_data.", "benchmarks.", "judge.", "models.judge", "evaluation.")
NO_ADVICE = {"feedback.pairs_per_prompt", "training.launch", "models.splitter", "compute.ray"}
A_NEW_RUN = {"compute.dtype"}
"""Every result depends on it."""


def names_in(advice: str) -> set[str]:
    return {name.partition("=")[0] for name in advice.split(",") if "=" in name}


def test_every_parameter_that_a_message_names_is_followed_here() -> None:
    """Those of benchmarks are read by nodes behind the loop, each of one benchmark alone."""
    named = {name for _, name in named_parameters() if types_at(name.split("."), Parameters)}
    followed = {name for _, advice in ADVICE for name in names_in(advice)}
    left = named - followed - BEFORE_THE_FIRST_NODE - NO_ADVICE - A_NEW_RUN
    assert {name for name in left if not name.startswith(OF_BENCHMARKS)} == set()


@pytest.fixture(scope="module")
def recipe(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunSetup]:
    """A recipe's loop, of which no run is there."""
    project = tmp_path_factory.mktemp("advice") / "project"
    shutil.copytree(whole, project)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        yield configured(project, ENV, read([START]), ["rlaif_loop"])


def merged(setup: RunSetup, advice: str) -> dict[str, Any]:
    """The recipe's parameters with those of the advice, as a manifest holds them."""
    own = setup.parameters.model_dump(mode="json")
    return complete_parameters(OmegaConf.to_container(OmegaConf.merge(own, read([advice]))))


@pytest.fixture
def stopped_at(recipe: RunSetup) -> Iterator[Callable[[str], Manifest]]:
    """Leaves what a run has made that is finished up to a node of the first iteration, which has begun.

    Each node has read whole groups.
    """
    left: list[Path] = []

    def stop(name: str) -> Manifest:
        until = f"iteration_1.{name}"
        nodes = [n for n in recipe.pipeline.to_nodes(until).nodes if n.name.startswith("iteration_1.")]
        manifest = begin(Path(), env=ENV, parameters=merged(recipe, "seed=0"))
        for node in nodes:
            manifest.nodes[node.name] = RunningNode(node, NodeRecord(reads=[])).at_start()
            for output in node.outputs:
                path = path_of(dataset(recipe.catalog, output), "r")
                left.append(path.parent)
                path.mkdir(parents=True)
                (path / "part").touch()
                if node.name != until:
                    manifest.written[output] = Entry(path=None, version="r", sha256="1")
        return manifest

    yield stop
    for folder in (*left, Path("data/runs")):
        shutil.rmtree(folder, ignore_errors=True)


def go_on(recipe: RunSetup, manifest: Manifest, advice: str) -> None:
    made = made_nodes(recipe.pipeline, recipe.catalog, manifest)
    changes = changes_since(manifest, ENV, merged(recipe, advice), made)
    assert changes, "the advice changes nothing"
    refuse("r", changes, made, recipe.pipeline)


@pytest.mark.parametrize(("node", "advice"), ADVICE)
def test_advice_can_be_followed_under_the_same_run_id(
    recipe: RunSetup, stopped_at: Callable[[str], Manifest], node: str, advice: str
) -> None:
    manifest = stopped_at(node)
    if all(effect_of(name) is Effect.EXECUTION for name in names_in(advice)):
        go_on(recipe, manifest, advice)
        return
    with pytest.raises(UserError) as refused:
        go_on(recipe, manifest, advice)
    told = refused.value.message
    assert "(rm -r data/" in told, told
    for folder in shlex.split(told.partition("(rm -r ")[2].partition("), or choose")[0]):
        shutil.rmtree(folder)
    go_on(recipe, manifest, advice)
