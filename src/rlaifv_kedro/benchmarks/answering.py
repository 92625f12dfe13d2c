"""A policy's answers to a benchmark's questions, and what they are worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.benchmarks.chair import chair_items, chair_metrics, truth_from_coco
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.statistics import share
from rlaifv_kedro.claims import yes_no_probs
from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, ModelsParams
from rlaifv_kedro.preference.pairs import accepted

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel

BENCHMARK = "chair"


def answer_prompts(
    policy: Path,
    prompts: pd.DataFrame,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """Greedy answers of a policy: the ``answers`` table."""
    from rlaifv_kedro.models import Decoding, Question

    model = load_policy(policy, params.batch_size, models, compute)
    rows = []
    for part in batches(list(prompts.itertuples(index=False)), params.batch_size, "answering"):
        questions = [Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row in part]
        sampled = model.sample(
            questions, [[0]] * len(part), Decoding(temperature=0, max_new_tokens=params.max_new_tokens)
        )
        rows += [
            (BENCHMARK, p.prompt_id, p.image_id, p.question, a[0].text, a[0].token_count)
            for p, a in zip(part, sampled)
        ]
    return pd.DataFrame(
        rows, columns=["benchmark", "item_id", "image_id", "question", "answer", "token_count"]
    )


def score_answers(
    answers: pd.DataFrame, instances: dict[str, Any], captions: dict[str, Any], decoding: str = "greedy"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CHAIR by rule on COCO-format truth.

    Args:
        decoding: How the answers were come by, for the metrics' protocol.

    Returns:
        answer_scores (one row an answer), metrics (one row a metric, with its standard error). Beside
        CHAIR's: ``faulty_rate``, answers that name something that is not there or name something twice;
        ``empty_share``.
    """
    vocabulary = Vocabulary.own()
    items = chair_items(answers, truth_from_coco(instances, captions, vocabulary), vocabulary)
    metrics = chair_metrics(items)
    shares = {
        "faulty_rate": (items["hallucinated_count"] > 0) | items["repeats"],
        "empty_share": answers["answer"].str.strip() == "",
    }
    for name, hits in shares.items():
        metrics.loc[len(metrics)] = [name, *share(hits.to_numpy())]
    metrics = metrics.assign(
        benchmark=BENCHMARK, failed=0, protocol=f"CHAIR by rule, vocabulary {vocabulary.label}, {decoding}"
    )
    return items.assign(benchmark=BENCHMARK), metrics


def answer_probes(
    policy: Path,
    prompts: pd.DataFrame,
    probes: pd.DataFrame,
    feedback: FeedbackParams,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """How well a model sees: its accuracy on yes/no questions with a known answer, by kind of question
    (``metrics`` of benchmark ``yes_no``).
    """
    model = load_policy(policy, params.batch_size, models, compute)
    images = {row.image_id: open_image(row.image, f"prompt {row.prompt_id}") for row in prompts.itertuples()}
    judged = []
    for part in batches(
        list(probes.groupby("image_id", sort=False)), params.batch_size, "answering yes/no questions"
    ):
        probs = yes_no_probs(
            model,
            [images[image_id] for image_id, _ in part],
            [group["question"].tolist() for _, group in part],
            feedback,
        )
        judged += [group.assign(yes=accepted(p[:, 0], p[:, 1])) for (_, group), p in zip(part, probs)]
    table = pd.concat(judged)
    right = table["yes"] == (table["answer"] == "yes")
    rows = [
        (f"accuracy_{kind}", *share(hits.to_numpy()))
        for kind, hits in right.groupby(table["kind"], sort=True)
    ]
    metrics = pd.DataFrame(rows, columns=["metric", "value", "n", "standard_error"])
    return metrics.assign(benchmark="yes_no", failed=0, protocol="p(yes) > p(no), one question a prompt")


def load_policy(
    policy: Path, batch_size: int, models: ModelsParams, compute: ComputeParams
) -> "TransformersModel":
    """A policy's checkpoint, loaded as ``models.policy`` says."""
    from rlaifv_kedro.models import Loading, load_model

    return load_model(policy, Loading.of(models.policy, compute, batch_size))
