"""A seventh benchmark: the example of docs/extending.md, as it stands there, from its file to the table."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image
from rich.console import Console

from rlaifv_kedro.benchmarks.answers_elsewhere import score_file
from rlaifv_kedro.benchmarks.benchmark import AnswerFiles, Benchmark
from rlaifv_kedro.benchmarks.registry import BENCHMARKS, benchmark_named
from rlaifv_kedro.datasets import ChunkedTableDataset, TableDataset
from rlaifv_kedro.datasets.images import Images
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams, ComputeParams, EvaluationParams, Parameters
from rlaifv_kedro.pipelines import benchmark_data, benchmarks
from rlaifv_kedro.reporting.terminal import benchmarks_table

DOCUMENT = Path(__file__).parents[2] / "docs/extending.md"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """The document's benchmark, in the list of benchmarks."""
    code, line = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert line.strip().endswith("COUNTING)")
    module: dict[str, Any] = {}
    exec(code, module)
    monkeypatch.setitem(BENCHMARKS, "counting", module["COUNTING"])
    return module["COUNTING"]


@pytest.fixture
def published(pictures: list[Image.Image], tmp_path: Path) -> Path:
    """A folder with three questions about two pictures."""
    for i, picture in enumerate(pictures[:2]):
        picture.save(tmp_path / f"{i}.png")
    records = [
        {"id": n, "image": f"{i}.png", "question": f"how many {things} are there?", "count": str(n)}
        for n, (i, things) in enumerate([(0, "cups"), (0, "dogs"), (1, "cups")])
    ]
    (tmp_path / "counting.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_from_the_published_file_to_the_table(counting: Benchmark, published: Path, tiny: Path) -> None:
    """Items, answers of a model, scores; then the same answers by the command that scores files."""
    parameters = Parameters(
        compute=ComputeParams(device="cpu", dtype="float32"),
        evaluation=EvaluationParams(benchmarks=["counting"]),
        benchmarks=BenchmarksParams(max_new_tokens=4, chunk_size=1),
    )
    pipeline = benchmarks.create_pipeline(parameters, {"tiny": "tiny"})
    pipeline += benchmark_data.create_pipeline(parameters).only_nodes_with_tags("counting")
    lines = (published / "counting.jsonl").read_text().splitlines()
    loaded = {
        "counting_questions": [json.loads(line) for line in lines],
        "counting_images": Images(published),
        "tiny": tiny,
        **{f"params:{name}": value for name, value in parameters},
    }
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in loaded.items()})
    catalog["benchmark.counting.answers"] = ChunkedTableDataset(str(published / "answers"), "answers")
    for name, table in (("counting_items", "benchmark_items"), ("benchmark_metrics", "metrics")):
        catalog[name] = TableDataset(str(published / f"{name}.parquet"), table)
    SequentialRunner().run(pipeline, catalog)

    assert catalog.load("counting_items")["item_id"].tolist() == ["0", "1", "2"]
    answers = catalog.load("benchmark.counting.answers").set_index("item_id")["answer"]
    metrics = catalog.load("benchmark_metrics").set_index("metric")
    assert metrics.at["accuracy", "value"] == sum(n in answers[n].split() for n in answers.index) / 3
    assert metrics.at["mean_words", "n"] == 3
    assert metrics["protocol"].unique().tolist() == [
        "Counting: the number is a word of the answer; standard errors by image; answers greedy"
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(benchmarks_table(catalog.load("benchmark_metrics")))
    assert "counting" in (shown := console.export_text()) and "accuracy %" in shown

    elsewhere = published / "elsewhere.jsonl"
    answers.reset_index().to_json(elsewhere, orient="records", lines=True)
    scored = score_file(counting, AnswerFiles(elsewhere, published)).metrics.set_index("metric")
    for column in ("value", "n", "standard_error"):
        pd.testing.assert_series_equal(scored[column], metrics[column], check_dtype=False)


def test_an_answer_is_found_by_its_picture_and_question(counting: Benchmark, published: Path) -> None:
    answers = published / "answers.jsonl"
    answers.write_text(
        json.dumps({"image": "0.png", "question": "how many dogs are there?", "answer": "there is 1 ."})
    )
    metrics = score_file(counting, AnswerFiles(answers, published)).metrics.set_index("metric")
    assert (metrics.at["accuracy", "value"], metrics.at["accuracy", "n"]) == (1, 1)
    assert metrics.at["accuracy", "protocol"].endswith("; answers to 1 of 3 items")
    with pytest.raises(UserError, match="--annotations is missing: give the folder with counting.jsonl"):
        score_file(counting, AnswerFiles(answers))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no benchmark 'mmhall'; did you mean mmhal?"):
        benchmark_named("mmhall", "BENCHMARK")
    with pytest.raises(UserError, match="known are chair, object_halbench, mmhal, refomb, amber, pope"):
        benchmark_named("xyz", "BENCHMARK")
    parameters = Parameters(evaluation=EvaluationParams(benchmarks=["chiar"]))
    with pytest.raises(
        UserError, match="evaluation.benchmarks: there is no benchmark 'chiar'; did you mean chair?"
    ):
        benchmarks.create_pipeline(parameters, {})
