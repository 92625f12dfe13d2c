"""benchmark_data: published files, which are fetched -> coco_truth, and a table of items for each benchmark.

Some of them: ``kedro run --pipelines benchmark_data --tags mmhal,refomb``. A benchmark's tag also makes the
truth that it needs.
"""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.benchmarks import items as benchmark_items
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.pipelines.benchmark_data import nodes


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The tables; ``benchmark_data.vocabulary`` says by which words COCO's captions are read."""
    published = parameters.benchmark_data.vocabulary == "published"
    return Pipeline(
        [
            node(
                nodes.make_coco_truth,
                inputs=["coco_annotations", *(["chair_vocabulary"] if published else [])],
                outputs="coco_truth",
                name="make_coco_truth",
                tags=["coco_truth", "chair", "object_halbench"],
            ),
            node(
                nodes.draw_chair_items,
                inputs=["coco_truth", "coco_images", "params:benchmark_data", "params:seed"],
                outputs="chair_items",
                name="draw_chair_items",
                tags="chair",
            ),
            node(
                benchmark_items.object_halbench_items,
                inputs="object_halbench_questions",
                outputs="object_halbench_items",
                name="make_object_halbench_items",
                tags="object_halbench",
            ),
            node(
                benchmark_items.mmhal_items,
                inputs=["mmhal_questions", "mmhal_images"],
                outputs="mmhal_items",
                name="make_mmhal_items",
                tags="mmhal",
            ),
            node(
                benchmark_items.refomb_items,
                inputs=["refomb_questions", "refomb_reference", "refomb_images"],
                outputs="refomb_items",
                name="make_refomb_items",
                tags="refomb",
            ),
            node(
                benchmark_items.amber_items,
                inputs=["amber_questions", "amber_annotations", "amber_images"],
                outputs="amber_items",
                name="make_amber_items",
                tags="amber",
            ),
            node(
                nodes.make_pope_items,
                inputs=["pope_random", "pope_popular", "pope_adversarial", "coco_images"],
                outputs="pope_items",
                name="make_pope_items",
                tags="pope",
            ),
        ]
    )
