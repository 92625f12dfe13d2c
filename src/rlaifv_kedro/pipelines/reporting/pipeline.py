"""reporting: every iteration's metrics -> summary, figure, report."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.benchmarks.loop import policy_name
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.pipelines.reporting.nodes import write_report
from rlaifv_kedro.reporting.figures import draw_figure
from rlaifv_kedro.reporting.metrics import collect_metrics, summarise


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The report on the base policy and all iterations of the loop.

    Without a labeler (``feedback.scoring``) there are neither verdicts nor rejects of its stages.
    """
    iterations = parameters.loop.iterations
    names = {k: policy_name(k) for k in range(iterations + 1)}
    metrics = {
        f"{kind}_{k}": f"{name}.{kind}" for k, name in names.items() for kind in ("metrics", "probe_metrics")
    }
    shown = {
        f"{short}_{k}": f"{names[k]}.{full}"
        for k in (0, iterations)
        for short, full in (("answers", "answers"), ("scores", "item_scores"))
    }
    verdicts = []
    rejects = {"rejects_data_generation": "data_generation_rejects", "rejects_training": "training_rejects"}
    if parameters.feedback.scoring != "reward":
        rejects |= {"rejects_feedback": "feedback_rejects", "rejects_verdicts": "verdict_rejects"}
        verdicts = [("verdicts", "verdicts")]
    steps = {
        f"{short}_{k}": f"{names[k]}.{full}"
        for k in range(1, iterations + 1)
        for short, full in (
            ("pairs", "pair_statistics"),
            ("selection", "selection"),
            ("curve", "selection_curve"),
            *rejects.items(),
            *verdicts,
        )
    }
    report = {"metrics": "loop_metrics", "prompts": "test_prompts", "params": "params:reporting"}
    return Pipeline(
        [
            node(collect_metrics, inputs=metrics, outputs="loop_metrics", name="collect_metrics"),
            node(summarise, inputs="loop_metrics", outputs="loop_summary", name="summarise"),
            node(draw_figure, inputs="loop_metrics", outputs="loop_figure", name="draw_figure"),
            node(write_report, inputs=report | shown | steps, outputs="loop_report", name="write_report"),
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
