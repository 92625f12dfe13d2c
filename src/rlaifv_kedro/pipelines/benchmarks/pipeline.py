"""benchmarks: items, policies -> answers -> judgements -> scores and metrics -> one table."""

from collections.abc import Mapping

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.benchmarks.registry import benchmark_named
from rlaifv_kedro.params import BenchmarkDataParams, BenchmarksParams, Parameters
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
                inputs={name: f"benchmark.{name}.metrics" for name in chosen},
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
    name: str, policies: Mapping[str, str], params: BenchmarksParams, data: BenchmarkDataParams
) -> Pipeline:
    benchmark = benchmark_named(name, "evaluation.benchmarks")
    items, own = f"{name}_items", f"benchmark.{name}"
    known = benchmark.knowledge(data)
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
            outputs=f"{own}.answers",
            name=f"answer_{name}",
            tags=[Role.POLICY, Task.BENCHMARK_ANSWERS],
        )
    ]
    if benchmark.is_judged(params):
        known = {"judgements": f"{own}.judgements", **known}
        steps.append(
            node(
                nodes.judge_benchmark,
                inputs=[
                    items,
                    f"{own}.answers",
                    "judge_store",
                    "params:benchmarks",
                    "params:judge",
                    "params:models",
                    "params:compute",
                ],
                outputs=f"{own}.judgements",
                name=f"judge_{name}",
                tags=[Role.JUDGE, Task.BENCHMARK_JUDGING],
            )
        )
    steps.append(
        node(
            nodes.score_benchmark,
            inputs={"items": items, "answers": f"{own}.answers", "params": "params:benchmarks", **known},
            outputs=[f"{own}.item_scores", f"{own}.metrics"],
            name=f"score_{name}",
            tags=[Task.BENCHMARK_SCORING],
        )
    )
    return Pipeline(steps, tags=name)
