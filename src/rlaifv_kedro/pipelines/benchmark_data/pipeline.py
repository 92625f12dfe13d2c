"""benchmark_data: published files, which are fetched -> coco_truth, and a table of items for each benchmark.

Some of them: ``kedro run --pipelines benchmark_data --tags mmhal,refomb``. A benchmark's tag also makes the
truth that it needs.
"""

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from rlaifv_kedro.benchmarks.benchmark import Benchmark
from rlaifv_kedro.benchmarks.coco.truth import make_coco_truth
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.params import Parameters

TRUTH = "coco_truth"


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The tables; ``benchmark_data.vocabulary`` says by which words COCO's captions are read."""
    params = parameters.benchmark_data
    by_truth = [
        name
        for name, benchmark in BENCHMARKS.items()
        if TRUTH in {*benchmark.inputs.values(), *benchmark.knowledge(params).values()}
    ]
    truth = node(
        make_coco_truth,
        inputs=["coco_annotations", *(["chair_vocabulary"] if params.vocabulary == "published" else [])],
        outputs=TRUTH,
        name="make_coco_truth",
        tags=[TRUTH, *by_truth],
    )
    return Pipeline([truth, *map(_items, BENCHMARKS.values())])


def _items(benchmark: Benchmark) -> Node:
    pictures = {} if benchmark.pictures is None else {"pictures": benchmark.pictures}
    return node(
        benchmark.item_table,
        inputs={**benchmark.inputs, **pictures},
        outputs=f"{benchmark.name}_items",
        name=f"make_{benchmark.name}_items",
        tags=benchmark.name,
    )
