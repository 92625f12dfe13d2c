"""Peak host memory of each stage by the number of prompts: what a stage holds that grows with them.

    python perf/memory_stages.py --folder /tmp/stages                   # 500, 2,000, 8,000, 32,000 prompts
    python perf/memory_stages.py --folder /tmp/stages --prompts 500,2000 --stages draw_prompts,build_pairs

Each stage's own nodes run in a process of their own, by Kedro's runner, on tables on the disk that the stages
before have written. Only the models are none: answers, verdicts and log-probs come from a random generator.
The pool is one row group; its pictures are JPEGs of which most is noise, so that they take room but little
time. Prints a markdown table of MiB above what the process had before its stage (``RssAnon``
in /proc: what the kernel can't take back), and of bytes a prompt between the two largest numbers of prompts.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner
from PIL import Image

import rlaifv_kedro.models
from rlaifv_kedro.benchmarks import loop
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.datasets import (
    ChunkedTableDataset,
    ExportFolderDataset,
    JsonDataset,
    PairStoreDataset,
    TableDataset,
)
from rlaifv_kedro.miniature.scenes import NAMES
from rlaifv_kedro.miniature.tiny_llava import build_model, build_processor
from rlaifv_kedro.models import Answer, FirstToken
from rlaifv_kedro.params import validate_parameters
from rlaifv_kedro.pipelines import benchmarks, data_generation, evaluation, export, feedback, training
from rlaifv_kedro.preference import reward
from rlaifv_kedro.schemas import FINGERPRINT, IMAGE, TABLES

PROMPTS = (500, 2_000, 8_000, 32_000)
WORDS = 100  # of an answer; the paper's policies write about as many
CLAIMS = 6  # of an answer
TABLES_OF = {
    "prompt_pool": "prompts",
    "test_prompts": "prompts",
    "pope_items": "benchmark_items",
    "test_probes": "probes",
    "test_truth": "coco_truth",
    "probe_metrics": "metrics",
}
CHUNKED = (
    "candidates",
    "claims",
    "verdicts",
    "candidate_rewards",
    "answers",
    "probe_replies",
    "benchmark.pope.answers",
)
READY, POLL = "ready", 0.002


class RandomModel:
    """Stands in for any model: what it says depends on nothing but a seed or the words that it is asked."""

    batch_size = 8

    def __init__(self, *_: Any):
        self._fillers = [
            " ".join(random.Random(i).choices(("the", "light", "soft", "calm", "wide", "and", "very"), k=14))
            for i in range(500)
        ]

    def sample(self, questions: Sequence[Any], seeds: Sequence[Sequence[int]], _: Any) -> list[list[Answer]]:
        """Answers of some sentences about objects, and others."""
        return [[Answer(self._text(seed), WORDS, "stop") for seed in own] for own in seeds]

    def first_tokens(self, _: Any, questions: Sequence[Sequence[str]], __: Any) -> list[list[FirstToken]]:
        """Yes, with any probability."""
        return [[self._reply(question) for question in own] for own in questions]

    def branch_log_probs(self, _: Any, answers: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """Any log-probs."""
        return [[(-random.random() * WORDS, WORDS) for _ in own] for own in answers]

    def table(self, _: Any, groups: Sequence[Any]) -> Any:
        """Any rewards."""
        columns = ["prompt_id", "candidate"]
        frames = [
            g[columns].assign(policy_log_prob=-1.0, reference_log_prob=-2.0, token_count=WORDS)
            for g in groups
        ]
        return reward.with_rewards(pd.concat(frames, ignore_index=True), 0.1)

    def _text(self, seed: int) -> str:
        draw = random.Random(seed)
        said = [f"there is a {draw.choice(NAMES)}. {draw.choice(self._fillers)}." for _ in range(CLAIMS)]
        return " ".join(said)

    def _reply(self, question: str) -> FirstToken:
        yes = random.random()
        return FirstToken((yes, 1 - yes), (("yes", yes),))


def parameters(prompts: int, scoring: str = "claims") -> Any:
    """The default parameters, for one iteration with all prompts of the pool."""
    return validate_parameters(
        {
            "loop": {"iterations": 1},
            "data_generation": {"prompts": prompts},
            "feedback": {"splitter": "miniature", "scoring": scoring},
            "training": {"max_length": 512},
            "evaluation": {"benchmarks": ["pope"]},
        }
    )


def pipeline_of(stage: str, prompts: int) -> Pipeline:
    """The node that is measured."""
    given = parameters(prompts)
    nodes = (
        data_generation.create_pipeline(first=True)
        + feedback.create_pipeline(given)
        + training.create_pipeline(given).only_nodes("gather_pairs")
        + export.create_pipeline(given)
        + evaluation.pipeline.measurement_pipeline()
        + benchmarks.create_pipeline(given, {"base": "policy"}).only_nodes("answer_pope", "score_pope")
    )
    by_reward = feedback.create_pipeline(parameters(prompts, "reward"))
    return next(
        each.only_nodes(stage) for each in (nodes, by_reward) if stage in {node.name for node in each.nodes}
    )


STAGES = (
    "draw_prompts",
    "sample_candidates",
    "divide",
    "verify_claims",
    "compute_rewards",
    "score_rewards",
    "score_candidates",
    "build_pairs",
    "gather_pairs",
    "export_published",
    "export_llama_factory",
    "answer_test_prompts",
    "answer_probes",
    "score_probes",
    "score_answers",
    "answer_pope",
    "score_pope",
)


def catalog_of(folder: Path, stage: str, prompts: int) -> DataCatalog:
    """Every entry that a stage reads and writes, in files; and the parameters."""
    given, version = parameters(prompts), Version("run", "run")
    entries: dict[str, Any] = {}
    for name in pipeline_of(stage, prompts).datasets():
        place, kind = str(folder / name), TABLES_OF.get(name, name.rsplit(".", 1)[-1])
        if name.startswith("params:"):
            value: Any = given
            for part in name.removeprefix("params:").split("."):
                value = getattr(value, part)
            entries[name] = MemoryDataset(value)
        elif name == "training_pairs":
            entries[name] = PairStoreDataset(place, "training_pairs", version)
        elif name.endswith("rejects"):
            entries[name] = ChunkedTableDataset(place, "rejects", version)
        elif name in CHUNKED:
            entries[name] = ChunkedTableDataset(place, kind, version)
        elif name.startswith("export_"):
            entries[name] = ExportFolderDataset(place, name.removeprefix("export_"), version)
        elif kind in TABLES:
            entries[name] = TableDataset(place, kind, version)
        elif name == "pair_statistics":
            entries[name] = JsonDataset(place, version)
        else:
            entries[name] = MemoryDataset(
                {"policy": folder / "policy", "number": 1}.get(name, folder / "policy")
            )
    return DataCatalog(entries)


def write_inputs(folder: Path, prompts: int, picture_kb: int) -> None:
    """The pool, the test prompts, questions about them, items of a benchmark; and an untrained policy."""
    draw = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "gray").save(buffer, format="JPEG")
    jpeg = buffer.getvalue()

    def picture(number: int) -> dict[str, Any]:
        noise = draw.bytes(min(picture_kb * 1000, 65_000))
        comment = b"\xff\xfe" + (len(noise) + 2).to_bytes(2, "big") + noise
        return {"bytes": jpeg[:2] + comment + jpeg[2:], "path": f"{number}.jpg"}

    numbers = np.arange(prompts)
    ids = [f"pool-{number}" for number in numbers]
    pictures = pa.array(map(picture, numbers.tolist()), IMAGE, size=prompts)
    prompts_table = {
        "prompt_id": ids,
        "question": [f"describe image {number} in detail." for number in numbers],
        "image": pictures,
        "image_id": numbers,
        "origin_dataset": ["noise"] * prompts,
        "question_type": ["detailed_description"] * prompts,
    }
    items = {
        "benchmark": ["pope"] * prompts,
        "item_id": ids,
        "question": ["is there a dog?"] * prompts,
        "image": pictures,
        "image_id": numbers,
        "kind": ["random"] * prompts,
        "reference": ['{"label": "no"}'] * prompts,
    }
    probes = {
        "item_id": ids,
        "image_id": numbers,
        "kind": ["presence"] * prompts,
        "question": ["is there a dog?"] * prompts,
        "answer": ["no"] * prompts,
    }
    truth = {
        "image_id": numbers,
        "split": ["test"] * prompts,
        "file_name": [f"{number}.jpg" for number in numbers],
        "categories": [["dog"]] * prompts,
    }
    for name, columns in (
        ("prompt_pool", prompts_table),
        ("pope_items", items),
        ("test_probes", probes),
        ("test_truth", truth),
    ):
        path = folder / name / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = pa.table(columns)
        if name == "test_truth":
            made_with = json.dumps({"vocabulary": Vocabulary.own().label})
            rows = rows.replace_schema_metadata({FINGERPRINT: made_with})
        pq.write_table(rows, path, compression="none", row_group_size=prompts)
    path = folder / "test_prompts/run/test_prompts"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.hardlink_to(folder / "prompt_pool/run/prompt_pool")
    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(folder / "policy")
    processor.save_pretrained(folder / "policy")


def run_stage(folder: Path, prompts: int, stage: str) -> None:
    """Runs one node; says when what it needs is imported."""
    rlaifv_kedro.models.open_model = rlaifv_kedro.models.load_model = RandomModel
    reward.Reward = loop.load_policy = RandomModel
    catalog, pipeline = catalog_of(folder, stage, prompts), pipeline_of(stage, prompts)
    print(READY, flush=True)
    SequentialRunner().run(pipeline, catalog)


def anonymous(process: int) -> int:
    """KiB of a process that the kernel can't take back; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def measure(command: list[str]) -> tuple[float, float]:
    """(MiB above what the process had when it was ready, seconds) of a command that says so."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while (line := process.stdout.readline()) and line.strip() != READY:
            pass
        before, start, peak = anonymous(process.pid), time.monotonic(), 0
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(POLL)
        seconds = time.monotonic() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read()[-3000:]}")
    return (peak - before) / 1024, seconds


def show(found: dict[str, dict[int, tuple[float, float]]], counts: Sequence[int]) -> None:
    """The table."""
    print("| stage |", " | ".join(f"{count:,}" for count in counts), "| bytes a prompt | seconds |")
    print("| --- " * (len(counts) + 3) + "|")
    for stage, own in found.items():
        peaks = [own[count][0] for count in counts]
        slope = (peaks[-1] - peaks[-2]) * 2**20 / (counts[-1] - counts[-2]) if len(counts) > 1 else 0
        cells = " | ".join(f"{peak:.0f}" for peak in peaks)
        print(f"| {stage} | {cells} | {slope:,.0f} | {own[counts[-1]][1]:.0f} |")


def main(arguments: Sequence[str] | None = None, write: Callable[..., None] = write_inputs) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the tables, which are left there")
    parser.add_argument("--prompts", default=",".join(map(str, PROMPTS)))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--picture-kb", type=int, default=30, help="of each picture, at most 65")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # in the process of one stage
    given = parser.parse_args(arguments)
    counts = [int(count) for count in given.prompts.split(",")]
    if given.only == "inputs":
        return write(given.folder, counts[0], given.picture_kb)
    if given.only:
        return run_stage(given.folder, counts[0], given.only)
    found: dict[str, dict[int, tuple[float, float]]] = {stage: {} for stage in given.stages.split(",")}
    for count in counts:
        folder = given.folder / f"{count}_{given.picture_kb}"
        command = [sys.executable, __file__, "--folder", str(folder), "--picture-kb", str(given.picture_kb)]
        command += ["--prompts", str(count), "--only"]
        if not folder.exists():
            subprocess.run([*command, "inputs"], check=True)
        for stage, own in found.items():
            own[count] = measure([*command, stage])
            print(
                f"{stage}, {count:,} prompts: {own[count][0]:.0f} MiB, {own[count][1]:.0f} s", file=sys.stderr
            )
    if given.json:
        print(json.dumps(found))
    else:
        show(found, counts)


if __name__ == "__main__":
    main()
