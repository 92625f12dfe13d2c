"""A run with a little of everything that the viewer shows, without a pipeline behind it."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from begun_runs import begin
from rlaifv_kedro.datasets import TableDataset
from rlaifv_kedro.datasets.chunks import Chunk, ChunkedTableDataset, Complete
from rlaifv_kedro.datasets.tables import table_content
from rlaifv_kedro.files import write_atomically
from rlaifv_kedro.runs.entries import recorded
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Manifest, NodeRecord
from rlaifv_kedro.schemas import table

HOSTILE = (
    "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'></script>\u2028 a cat"
)
"""An answer that would run, were it taken for markup."""
CHINESE = "圖中有一隻貓坐在木製長椅上。"
PROMPTS = 70
"""Two chunks."""
REFUSED = "p4"
"""The prompt of which the labeler's replies are no verdicts."""


def picture(number: int, side: int = 24) -> dict[str, Any]:
    """A plain picture of its own colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (number * 37 % 256, number * 91 % 256, 120)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def answers_of(number: int) -> list[str]:
    """The three candidates of a prompt."""
    last = {0: HOSTILE, 1: CHINESE}.get(number, f"a dog number {number} on a red sofa")
    return [f"a cat number {number} on a sofa", f"a cat number {number} and a dog on a sofa", last]


class RunMaker:
    """Writes tables as a run's artifacts."""

    def __init__(self, project: Path, run_id: str, **start: Any):
        self.project, self.run = project, begin(project, run_id, **start)

    def table(self, name: str, kind: str, rows: list[tuple[Any, ...]], chunked: bool = False) -> None:
        """Writes a table in one file, or in two chunks."""
        frame, path = table(kind).frame(rows), self.project / "data" / name / self.run.run_id / name
        if chunked:
            dataset = ChunkedTableDataset(str(path), kind)
            half = len(rows) // 2
            dataset.save(Chunk("0", frame[:half]))
            dataset.save(Chunk("1", frame[half:]))
            dataset.save(Complete(["0", "1"]))
        else:
            dataset = TableDataset(str(path), kind)
            write_atomically(path, table_content(kind, frame, name))
        self._note(name, dataset)

    def document(self, name: str, value: Any) -> None:
        """Writes a JSON document."""
        path = self.project / "data" / name / self.run.run_id / f"{name}.json"
        write_atomically(path, json.dumps(value).encode())
        self._note(name, TableDataset(str(path), "answers"))

    def _note(self, name: str, dataset: Any) -> None:
        written = recorded(self.project, dataset, None)
        self.run.written[name] = written.model_copy(update={"version": self.run.run_id})

    def finish(self) -> Manifest:
        """Ends the run."""
        self.run.status, self.run.ended = "finished", self.run.started
        self.run.save(self.project)
        return self.run


def viewed_run(project: Path, run_id: str = "seen", wrong: int = 1) -> Manifest:
    """A run with one iteration, the test split, and a judged benchmark.

    Args:
        wrong: How many of its policy's three answers on the test split are wrong; of the base policy's two.
    """
    parameters = {"seed": 3, "training": {"beta": 0.5}}
    maker = RunMaker(project, run_id, parameters=parameters, lineage=Lineage(recipe="base", seed=3))
    _iteration(maker)
    _training(maker)
    _test_split(maker, wrong)
    _benchmark(maker)
    maker.run.nodes["iteration_1.feedback.divide"] = NodeRecord(seconds=3.5)
    return maker.finish()


def _iteration(maker: RunMaker) -> None:
    ids = [f"p{n}" for n in range(PROMPTS)]
    pictures = [picture(n) for n in range(PROMPTS)]
    pictures[3] = {"bytes": b"no picture", "path": None}
    pictures[5] = picture(5, 500)
    kinds = [("detail", "list")[n % 2] for n in range(PROMPTS)]
    prompts = [(i, f"What is in {i}?", pictures[n], n, "d", kinds[n]) for n, i in enumerate(ids)]
    maker.table("iteration_1.prompts", "prompts", prompts)
    texts = [(i, k, text) for n, i in enumerate(ids) if n != 3 for k, text in enumerate(answers_of(n))]
    candidates = [(i, k, text, len(text.split()), "stop", 0) for i, k, text in texts]
    maker.table("iteration_1.candidates", "candidates", candidates, chunked=True)
    claims, verdicts, scores = [], [], []
    for i, k, _ in texts:
        claims.append((i, k, 0, f"{i} shows a cat", f"Is there a cat in {i}?"))
        unread = i == REFUSED
        yes = 0.1 if unread else (0.9, 0.55, 0.2)[k]
        no = 0.1 if unread else 0.97 - yes
        verdicts.append((i, k, 0, yes, no, None if unread else yes > no, "Sorry" if unread else "yes"))
        if not unread:
            scores.append((i, k, 1, int(k == 2), float(-(k == 2))))
    maker.table("iteration_1.claims", "claims", claims, chunked=True)
    maker.table("iteration_1.verdicts", "verdicts", verdicts, chunked=True)
    maker.table("iteration_1.scores", "scores", scores)
    unread = [
        ("verdicts", json.dumps([REFUSED, k]), f"the labeler's reply is neither yes nor no: Sorry, {k}")
        for k in range(3)
    ]
    maker.table("iteration_1.verdict_rejects", "rejects", unread, chunked=True)
    damaged = [("data_generation", "p3", "prompt p3: the image can't be read (not a picture). Replace it.")]
    maker.table("iteration_1.data_generation_rejects", "rejects", damaged)
    maker.table("iteration_1.preference_pairs", "preference_pairs", [_pair(n) for n in (0, 1, 2)])
    maker.document("iteration_1.pair_statistics", {"kept_pairs": 3, "possible_pairs": 130})


def _pair(n: int) -> tuple[Any, ...]:
    chosen, _, rejected = answers_of(n)
    row = ("own", picture(n), f"What is in p{n}?", chosen, rejected, "d", None, n, None)
    return (*row, 0.0, -1.0, 1, f"p{n}", 0, 2)


def _training(maker: RunMaker) -> None:
    log = [(k, k / 4, 0.7 / k, 1e-4, 1.0, k / 10, 0.5, 0.1, -0.1) for k in range(1, 5)]
    maker.table("iteration_1.training_log", "training_log", log)
    rows = [
        (name, step, epoch, "chair", "response_hallucination", value, 20, 0, 0.1, "by rule")
        for name, step, epoch, value in (
            ("base", 0, 0.0, 0.6),
            ("start", 0, 0.0, 0.6),
            ("checkpoint-2", 2, 0.5, 0.4),
            ("checkpoint-4", 4, 1.0, 0.5),
        )
    ]
    maker.table("iteration_1.checkpoint_metrics", "checkpoint_metrics", rows, chunked=True)
    decided = {"selected": "checkpoint-2", "split": "selection", "criterion": "response_hallucination"}
    maker.document("iteration_1.selection", {**decided, "collapsed": {}, "not_measured": []})


def _test_split(maker: RunMaker, wrong_at_last: int) -> None:
    items = [(f"t{n}", "Describe it.", picture(100 + n), n, "d", None) for n in range(3)]
    maker.table("test_prompts", "prompts", items)
    maker.table("test_truth", "coco_truth", [(n, "test", f"{n}.jpg", ["dog", "cat"]) for n in range(3)])
    for policy, wrong in (("base", 2), ("iteration_1", wrong_at_last)):
        said = [(policy, "chair", f"t{n}", "Describe it.", f"{policy} sees {n}", 3, "stop") for n in range(3)]
        maker.table(f"{policy}.answers", "answers", said)
        scores = [
            (
                policy,
                "chair",
                f"t{n}",
                None,
                str(n),
                "chair_s",
                float(n < wrong),
                1.0,
                "not there: cat" * (n < wrong),
            )
            for n in range(3)
        ]
        maker.table(f"{policy}.item_scores", "item_scores", scores)
        metrics = [
            (policy, "chair", name, wrong / 3, 3, 0, 0.2, "by rule")
            for name in ("response_hallucination", "object_recall")
        ]
        maker.table(f"{policy}.metrics", "metrics", metrics)


def _benchmark(maker: RunMaker) -> None:
    items = [
        ("mmhal", f"m{n}", f"Question {n}?", picture(200 + n), n, "attribute", '{"standard": "a cat"}')
        for n in range(3)
    ]
    maker.table("mmhal_items", "benchmark_items", items)
    answers = [("base", "mmhal", f"m{n}", f"Question {n}?", f"answer {n}", 2, "stop") for n in range(3)]
    maker.table("benchmark.mmhal.answers", "answers", answers, chunked=True)
    judgements = [
        (
            "base",
            "mmhal",
            f"m{n}",
            "rating",
            "h",
            "judge",
            "judge",
            f"Rating: {n}",
            None if n == 2 else str(n),
            "the reply holds no verdict" if n == 2 else None,
            1,
            1000,
            50,
        )
        for n in range(3)
    ]
    maker.table("benchmark.mmhal.judgements", "judgements", judgements)
    scores = [("base", "mmhal", f"m{n}", "attribute", str(n), "score", float(n), 1.0, "") for n in range(2)]
    maker.table("benchmark.mmhal.item_scores", "item_scores", scores)
    metrics = [("base", "mmhal", "score", 0.5, 2, 1, 0.5, "judged by judge")]
    maker.table("benchmark.mmhal.metrics", "metrics", metrics)
