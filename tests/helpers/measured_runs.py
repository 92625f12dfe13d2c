"""Runs that have measured a policy by CHAIR, without a pipeline behind them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from begun_runs import begin
from rlaifv_kedro.benchmarks.loop import score_answers
from rlaifv_kedro.datasets import TableDataset
from rlaifv_kedro.datasets.tables import table_content
from rlaifv_kedro.files import write_atomically
from rlaifv_kedro.runs.entries import recorded
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.schemas import FINGERPRINT, table

TRUTH = {f"t{n}": ("cat",) for n in range(4)}
"""Each picture of the test split shows a cat."""


def measure(
    project: Path,
    run_id: str,
    answers: dict[str, str],
    entry: str = "iteration_1",
    items: str = "i",
    policies: Sequence[str] = (),
    **start: Any,
) -> Manifest:
    """Begins a run that has measured a policy's answers, and ends it.

    Args:
        answers: By item, of those in :data:`TRUTH`.
        entry: Whose: ``base`` or ``iteration_<k>``, or of a benchmark: ``benchmark.<name>``.
        items: The sha256 of the items.
        policies: Those that have said so; by default the one that the entry is of.
    """
    run = begin(project, run_id, **start)
    asked = table("prompts").frame(
        [(name, "What is there?", {"bytes": b"", "path": None}, n, "d", None) for n, name in enumerate(TRUTH)]
    )
    truth = table("coco_truth").frame(
        [(n, "test", f"{n}.jpg", list(there)) for n, there in enumerate(TRUTH.values())]
    )
    truth.attrs[FINGERPRINT] = {"vocabulary": "own-80-v1"}
    rows = [(name, "What is there?", answer, 9, "stop") for name, answer in answers.items()]
    answered = asked[asked["prompt_id"].isin(list(answers))]
    own = [
        table("answers").frame([(policy, "chair", *row) for row in rows]) for policy in policies or (entry,)
    ]
    said = pd.concat(own, ignore_index=True)
    scores, metrics = map(pd.concat, zip(*(score_answers(one, answered, truth) for one in own)))
    for name, frame in (("answers", said), ("item_scores", scores), ("metrics", metrics)):
        path = project / "data" / entry / name / run_id / f"{name}.parquet"
        write_atomically(path, table_content(name, frame, name))
        written = recorded(project, TableDataset(str(path), name), None)
        run.written[f"{entry}.{name}"] = written.model_copy(
            update={"version": run_id, "made_of": {"test_prompts": items}}
        )
    run.status, run.ended = "finished", run.started
    run.save(project)
    return run
