"""One whole iteration on the miniature: candidates, verdicts, pairs, reference, training, selection.

    python perf/iteration.py --prompts 200
    python perf/iteration.py --prompts 48 --vllm .venv-vllm/bin/python

Ours beside the original release's way (perf/release_way.py): ``generate`` with ``num_return_sequences``, a
full forward a question, a full forward an answer, chosen and rejected as rows of one batch. Both run the
project's own nodes; of the peer's, the functions that compute are exchanged. Each stage of the peer gets what
ours made before it, and must make the same: verdicts, pairs, reference log-probs, losses, metrics. Candidates
come from other random streams; there ours is compared with ``generate`` that draws our tokens, on a few
prompts. All is compared before any ratio is printed. Seconds are the processor's, of one thread.

With ``--vllm`` real servers of vLLM sample and label on both sides (perf/served_way.py), and their processor
time counts; they are started once, before.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import release_way
import served_way
import torch
import yaml
from kedro.io.core import Version

from rlaifv_kedro.benchmarks.coco.truth import truth_of_split
from rlaifv_kedro.branching import sampling
from rlaifv_kedro.datasets import Chunk, Complete, PairStore, PairStoreDataset
from rlaifv_kedro.engine.outputs import Outputs, running
from rlaifv_kedro.miniature.world import draw_split, prompt_table, truth
from rlaifv_kedro.params import (
    ComputeParams,
    DataGenerationParams,
    EvaluationParams,
    FeedbackParams,
    ModelsParams,
    TrainingParams,
)
from rlaifv_kedro.pipelines.data_generation.nodes import sample_candidates
from rlaifv_kedro.pipelines.evaluation.nodes import answer_with_checkpoints, score_checkpoints
from rlaifv_kedro.pipelines.feedback.nodes import build_pairs, divide, score, verify_claims
from rlaifv_kedro.pipelines.training.nodes import compute_reference, gather_pairs, train_policy
from rlaifv_kedro.schemas import table

PROJECT = Path(__file__).resolve().parents[1]
MODELS = PROJECT / "data/06_models/miniature/seed_0"
POLICY, LABELER = MODELS / "base_policy/shipped/base_policy", MODELS / "labeler/shipped/labeler"
BACKEND = "rlaifv_kedro.models.backends.transformers"
RELEASE = {
    f"{BACKEND}.sample_branches": release_way.sample_branches,
    f"{BACKEND}.next_token_probs": release_way.next_token_probs,
    f"{BACKEND}.branch_log_probs": release_way.branch_log_probs,
    "rlaifv_kedro.training.trainer.branch_log_probs": release_way.concatenated_log_probs,
}
ALLOWED = {
    "verdicts": 1e-4,  # probabilities
    "pairs": 0.0,  # rows that differ
    "reference": 1e-3,  # nats of an answer
    "training": 1e-3,  # of each step's loss and gradient norm
    "selection": 0.0,  # of each metric
}
CHECKED = 4
"""Prompts whose candidates are compared."""
SERVED_ALIKE = 0.9
"""Share of these that must be the same on servers, whose sums depend on what else they compute."""


@dataclass(frozen=True)
class Settings:
    """The miniature's own parameters, with fewer prompts."""

    generation: DataGenerationParams
    feedback: FeedbackParams
    training: TrainingParams
    evaluation: EvaluationParams
    compute: ComputeParams
    models: ModelsParams = field(default_factory=ModelsParams)
    asked: ModelsParams = field(default_factory=ModelsParams)
    """Of the policy that samples, and the labeler."""
    seed: int = 0

    @classmethod
    def of(cls, prompts: int) -> "Settings":
        """As conf/base says."""
        said = yaml.safe_load((PROJECT / "conf/base/parameters.yml").read_text())
        return cls(
            DataGenerationParams(**said["data_generation"] | {"prompts": prompts}),
            FeedbackParams(**said["feedback"]),
            TrainingParams(**said["training"] | {"report_to": []}),
            EvaluationParams(**said["evaluation"]),
            ComputeParams(**said["compute"]),
        )


@dataclass
class Made:
    """What an iteration's stages made, and the processor's seconds of each."""

    seconds: dict[str, float] = field(default_factory=dict)
    candidates: pd.DataFrame | None = None
    claims: tuple[pd.DataFrame, pd.DataFrame] | None = None
    verdicts: tuple[pd.DataFrame, pd.DataFrame] | None = None
    pairs: pd.DataFrame | None = None
    store: PairStore | None = None
    reference: pd.DataFrame | None = None
    checkpoints: list[dict[str, Any]] | None = None
    log: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None


class Iteration:
    """The stages one after another; each takes what an iteration made before it.

    Args:
        folder: For pairs and checkpoints.
        clock: Seconds so far.
    """

    def __init__(self, settings: Settings, folder: Path, clock: Callable[[], float] = time.process_time):
        self.settings, self.folder, self.clock = settings, folder, clock
        seed, prompts = settings.seed, settings.generation.prompts
        scenes = draw_split(seed, "pool", prompts, double_share=0.5)
        self.prompts = prompt_table(scenes, "pool", seed, all_prompts=True)[:prompts]
        selection = draw_split(seed, "selection", max(prompts // 4, 1), double_share=0.5)
        self.selection_prompts = prompt_table(selection, "selection", seed, all_prompts=False)
        self.selection_truth = truth_of_split("selection", *truth(selection, "selection", seed))

    def run(self, before: Made | None = None) -> Made:
        """All stages; each gets what ``before`` has, or what this run made."""
        made = Made()
        source = before or made
        for name in STAGES:
            start = self.clock()
            getattr(self, f"_{name}")(source, made)
            made.seconds[name] = self.clock() - start
        return made

    def first(self, count: int) -> Made:
        """Candidates and verdicts of the first prompts alone."""
        all_prompts, self.prompts, made = self.prompts, self.prompts[:count], Made()
        self._sampling(made, made)
        self._verdicts(made, made)
        self.prompts = all_prompts
        return made

    def _sampling(self, source: Made, made: Made) -> None:
        s = self.settings
        _, made.candidates = _tables(
            sample_candidates(self.prompts, POLICY, s.seed, s.generation, s.asked, s.compute)
        )

    def _verdicts(self, source: Made, made: Made) -> None:
        s, candidates = self.settings, source.candidates
        rejects, claims = _tables(
            divide(self.prompts, candidates, s.seed, s.generation, s.feedback, s.asked, s.compute)
        )
        made.claims = rejects, claims
        models = LABELER, POLICY, s.feedback, s.asked, s.compute
        made.verdicts = _tables(verify_claims(self.prompts, candidates, claims, rejects, *models))

    def _pairs(self, source: Made, made: Made) -> None:
        s, (rejects, verdicts) = self.settings, made.verdicts
        scores = score(self.prompts, source.candidates, verdicts, rejects, s.feedback)
        pairs, _ = build_pairs(self.prompts, source.candidates, scores, 1, s.seed, s.feedback)
        made.pairs = pd.concat(list(pairs), ignore_index=True)
        dataset = PairStoreDataset(str(self.folder / f"{id(made)}"), "training_pairs", Version("run", "run"))
        for _, chunk in gather_pairs(POLICY, s.seed, s.training, s.models, s.compute, made.pairs):
            dataset.save(chunk)
        made.store = dataset.load()

    def _reference(self, source: Made, made: Made) -> None:
        s, rejects = self.settings, table("rejects").frame([])
        chunks = compute_reference(source.store, rejects, POLICY, s.training, s.models, s.compute)
        frames = [chunk.frame for chunk in chunks if isinstance(chunk, Chunk)]
        made.reference = pd.concat(frames, ignore_index=True)
        made.reference.attrs = frames[0].attrs

    def _training(self, source: Made, made: Made) -> None:
        s, folder = self.settings, self.folder / f"{id(made)}-work"
        paths = {
            "checkpoints": folder / "checkpoints",
            "training_log": folder / "log" / "run" / "training_log",
        }
        with running(Outputs(paths=paths)):
            checkpoints, made.log = train_policy(
                source.store, source.reference, POLICY, s.seed, 1, s.training, s.models, s.compute
            )
        made.checkpoints = [{**c, "path": str(paths["checkpoints"] / c["path"])} for c in checkpoints]

    def _selection(self, source: Made, made: Made) -> None:
        s = self.settings
        models = s.evaluation, s.models, s.compute
        answers = answer_with_checkpoints(source.checkpoints, POLICY, POLICY, self.selection_prompts, *models)
        frames = [chunk.frame for chunk in answers if isinstance(chunk, Chunk)]
        compared = source.checkpoints, pd.concat(frames, ignore_index=True), POLICY, POLICY
        chunks = score_checkpoints(*compared, self.selection_prompts, self.selection_truth)
        frames = [chunk.frame for chunk in chunks if isinstance(chunk, Chunk)]
        made.metrics = pd.concat(frames, ignore_index=True)


STAGES = ("sampling", "verdicts", "pairs", "reference", "training", "selection")


def _tables(node: Iterator[tuple[Chunk | Complete, ...]]) -> tuple[pd.DataFrame, ...]:
    """The tables that a node yields in chunks."""
    chunks = [chunks for chunks in node if isinstance(chunks[0], Chunk)]
    return tuple(pd.concat([c.frame for c in column], ignore_index=True) for column in zip(*chunks))


def differences(ours: Made, peer: Made) -> dict[str, float]:
    """How far the peer's results are from ours, by stage."""

    def apart(frame: str, columns: list[str]) -> float:
        a, b = (getattr(made, frame)[columns].to_numpy(dtype=float) for made in (ours, peer))
        return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")

    a, b = ours.verdicts[1], peer.verdicts[1]
    columns = ["p_yes", "p_no"]
    pairs = [made.pairs[["question", "chosen", "rejected"]].to_numpy().tolist() for made in (ours, peer)]
    same = sum(x == y for x, y in zip(*pairs))
    return {
        "verdicts": float((a[columns] - b[columns]).abs().to_numpy().max()),
        "pairs": float(max(map(len, pairs)) - same),
        "reference": apart("reference", ["chosen", "rejected"]),
        "training": apart("log", ["loss", "grad_norm"]),
        "selection": apart("metrics", ["value"]),
    }


@contextmanager
def replaced(functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Other functions in place of some of ours, by where these are named."""
    with ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch(name, function))
        # The release's forward rounds otherwise than the reference log-probs that ours made
        stack.enter_context(mock.patch("rlaifv_kedro.training.trainer.PreferenceTrainer._check_reference"))
        yield


def same_draws(settings: Settings, folder: Path, candidates: pd.DataFrame) -> float:
    """The share of the first prompts' candidates that ``generate`` draws too from our random numbers."""
    with mock.patch.object(sampling, "way_of", return_value="separate"):
        made = Iteration(settings, folder).first(CHECKED)
    keys = ["prompt_id", "candidate"]
    joined = made.candidates.merge(candidates, on=keys, how="left", validate="one_to_one")
    return float((joined["answer_x"] == joined["answer_y"]).mean())


def compared(settings: Settings, folder: Path) -> tuple[Made, Made, float]:
    """Both ways, and the share of candidates that they draw alike from the same random numbers."""
    iteration = Iteration(settings, folder)
    ours = iteration.run()
    with replaced(RELEASE):
        peer = iteration.run(ours)
    return ours, peer, same_draws(settings, folder, ours.candidates)


def compared_on_servers(settings: Settings, folder: Path, python: str) -> tuple[Made, Made, float]:
    """The same with servers of vLLM that sample and label."""
    servers = served_way.Served(python, {"policy": POLICY, "labeler": LABELER})
    try:
        asked = ModelsParams(policy=servers.params, labeler=servers.params)
        iteration = Iteration(replace(settings, asked=asked), folder, servers.seconds)
        with servers.used():
            drawn = servers.same_draws(iteration.prompts[:CHECKED], settings.generation)
            iteration.first(CHECKED)  # a server's first requests take long
            ours = iteration.run()
            with replaced(RELEASE | served_way.RELEASE):
                peer = iteration.run(ours)
    finally:
        servers.close()
    return ours, peer, drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment that has vLLM")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings.of(given.prompts)
    with tempfile.TemporaryDirectory() as folder:
        ours, peer, drawn = (
            compared_on_servers(settings, Path(folder), given.vllm)
            if given.vllm
            else compared(settings, Path(folder))
        )
    found = differences(ours, peer)
    off = {name: value for name, value in found.items() if not value <= ALLOWED[name]}
    if off or drawn < (SERVED_ALIKE if given.vllm else 1):
        sys.exit(
            f"Ours and the release's way differ: {off}, candidates alike {drawn:.3f}. No ratio is given."
        )
    if given.json:
        print(json.dumps({"ours": ours.seconds, "peer": peer.seconds, "differences": found}))
        return
    print(markdown(ours, peer, found))


def markdown(ours: Made, peer: Made, found: dict[str, float]) -> str:
    """Seconds and ratios by stage, and of the whole, as markdown."""
    lines = ["| stage | ours, s | release's way, s | ratio | difference |", "| --- | --- | --- | --- | --- |"]
    for name in STAGES:
        a, b = ours.seconds[name], peer.seconds[name]
        lines.append(f"| {name} | {a:.1f} | {b:.1f} | {b / a:.2f} | {found.get(name, 0.0):.0e} |")
    a, b = sum(ours.seconds.values()), sum(peer.seconds.values())
    return "\n".join([*lines, f"| **whole iteration** | {a:.1f} | {b:.1f} | **{b / a:.2f}** | |"])


if __name__ == "__main__":
    main()
