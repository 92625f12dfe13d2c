"""The line that a stage of an iteration ends with: what it made, what it left out, where that lies."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.benchmarks.chair import CHAIR
from rlaifv_kedro.formats import cell, in_words
from rlaifv_kedro.preference.verdicts import unread_line
from rlaifv_kedro.runs.resume_command import stage_command

if TYPE_CHECKING:
    from kedro.io import DataCatalog

    from rlaifv_kedro.runs.manifest import Manifest

Load = Callable[[str], Any]


def stage_lines(namespace: str, manifest: "Manifest", catalog: "DataCatalog") -> list[str]:
    """What to say when all nodes of a stage have run: nothing of what is no stage of an iteration.

    Args:
        namespace: Of its nodes: ``iteration_2.feedback``.
        manifest: Of the run: what it has written may be less than the whole stage, as the options say.
    """
    iteration, _, stage = namespace.partition(".")
    told = _TOLD.get(stage)
    if told is None:
        return []
    say, main, needed = told
    made = [manifest.written.get(f"{iteration}.{name}") for name in (main, *needed)]
    if not all(entry and entry.sha256 for entry in made):
        return []
    said = say(lambda name: catalog.load(f"{iteration}.{name}"))
    path = manifest.written[f"{iteration}.{main}"].path
    lines = [f"{in_words(iteration)} · {in_words(stage)} has made {said}: {path}"]
    if manifest.pipelines == [stage]:
        number = int(iteration.rpartition("_")[2])
        following = list(_TOLD)[(list(_TOLD).index(stage) + 1) % len(_TOLD)]
        number += following == "data_generation"
        lines.append(f"Next: {stage_command(manifest.command, following, number)}")
    return lines


def _candidates(load: Load) -> str:
    candidates = load("candidates")
    prompts = candidates["prompt_id"].nunique()
    rejects = len(load("data_generation_rejects"))
    return f"{len(candidates):,} candidates of {prompts:,} prompts, {rejects:,} rejects"


def _pairs(load: Load) -> str:
    found, verdicts = load("pair_statistics"), load("verdicts")
    left_out = len(load("feedback_rejects")) + len(load("verdict_rejects"))
    return (
        f"{found['kept_pairs']:,} pairs kept of {found['drawn_pairs']:,} drawn, from "
        f"{found['prompts_with_pairs']:,} of {found['prompts']:,} prompts, by {len(verdicts):,} claims, "
        f"{left_out:,} rejects, {unread_line(verdicts) or 'every reply of the labeler a verdict'}"
    )


def _checkpoints(load: Load) -> str:
    log = load("training_log")
    first, last = log.iloc[0], log.iloc[-1]
    return (
        f"{len(load('checkpoints'))} checkpoints in {int(last['step']):,} steps, loss {first['loss']:.2f} to "
        f"{last['loss']:.2f}, {len(load('training_rejects')):,} rejects"
    )


def _policy(load: Load) -> str:
    selection, metrics = load("selection"), load("metrics").set_index("metric")
    rates = ", ".join(f"{in_words(name)} {cell(name, metrics.loc[name])} %" for name in CHAIR.headline[:2])
    return f"a policy of {selection['selected']}, whose rates on the test split are {rates}"


_TOLD: Mapping[str, tuple[Callable[[Load], str], str, tuple[str, ...]]] = {
    "data_generation": (_candidates, "candidates", ("data_generation_rejects",)),
    "feedback": (
        _pairs,
        "preference_pairs",
        ("pair_statistics", "verdicts", "feedback_rejects", "verdict_rejects"),
    ),
    "training": (_checkpoints, "checkpoints", ("training_log", "training_rejects")),
    "evaluation": (_policy, "trained_policy", ("selection", "metrics")),
}
"""Stage -> what it says, the entry whose path is shown, and the others that it reads; in the loop's order."""
