"""benchmarks: a benchmark's items, policies -> answers -> judgements -> scores and metrics; then all
benchmarks and policies in one table.
"""

from collections.abc import Mapping

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.benchmarks.suite import is_judged, needs_truth
from rlaifv_kedro.params import Benchmark, BenchmarkDataParams, BenchmarksParams, Parameters
from rlaifv_kedro.pipelines.benchmarks import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline(parameters: Parameters, policies: Mapping[str, str]) -> Pipeline:
    """The benchmarks that ``evaluation.benchmarks`` names, answered, judged and scored.

    Args:
        policies: Name in the tables -> entry of the catalog; beside these ``evaluation.policy`` answers.
    """
    params, data = parameters.benchmarks, parameters.benchmark_data
    chosen = list(dict.fromkeys(parameters.evaluation.benchmarks))
    each = sum((_one(name, policies, params, data) for name in chosen), Pipeline([]))
    if not chosen:
        return each
    return each + Pipeline(
        [
            node(
                nodes.collect_benchmarks,
                inputs={name: f"benchmark.{name}.policy_metrics" for name in chosen},
                outputs="benchmark_metrics",
                name="collect_benchmarks",
            ),
            node(
                nodes.compare_policies,
                inputs={"metrics": "benchmark_metrics"}
                | {name: f"benchmark.{name}.item_scores" for name in chosen},
                outputs="policy_comparisons",
                name="compare_policies",
            ),
        ]
    )


def _one(
    name: Benchmark, policies: Mapping[str, str], params: BenchmarksParams, data: BenchmarkDataParams
) -> Pipeline:
    items, answers, judgements = (
        f"{name}_items",
        f"benchmark.{name}.policy_answers",
        f"benchmark.{name}.policy_judgements",
    )
    judged = is_judged(name, params)
    steps = [
        node(
            nodes.answer_benchmark,
            inputs={
                "items": items,
                "evaluation": "params:evaluation",
                "params": "params:benchmarks",
                "models": "params:models",
                "compute": "params:compute",
                **policies,
            },
            outputs=answers,
            name=f"answer_{name}",
            tags=[Role.POLICY, Task.BENCHMARK_ANSWERS],
        )
    ]
    if judged:
        steps.append(
            node(
                nodes.judge_benchmark,
                inputs=[
                    items,
                    answers,
                    "judge_store",
                    "params:benchmarks",
                    "params:judge",
                    "params:models",
                    "params:compute",
                ],
                outputs=judgements,
                name=f"judge_{name}",
                tags=[Role.JUDGE, Task.BENCHMARK_JUDGING],
            )
        )
    known = {"judgements": judgements} if judged else {}
    if needs_truth(name):
        known |= {"truth": "coco_truth"} | (
            {"vocabulary": "chair_vocabulary"} if data.vocabulary == "published" else {}
        )
    if name == "amber":
        known |= {"relation": "amber_relation", "safe_words": "amber_safe_words"}
    steps.append(
        node(
            nodes.score_benchmark,
            inputs={"items": items, "answers": answers, "params": "params:benchmarks", **known},
            outputs=[f"benchmark.{name}.item_scores", f"benchmark.{name}.policy_metrics"],
            name=f"score_{name}",
            tags=[Task.BENCHMARK_SCORING],
        )
    )
    return Pipeline(steps, tags=name)
