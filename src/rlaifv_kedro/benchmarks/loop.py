"""How the loop measures its policies: by CHAIR on greedy answers, and by yes/no questions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Submission
from rlaifv_kedro.benchmarks.chair import CHAIR, prompt_items
from rlaifv_kedro.benchmarks.scoring import answered_items, log_cut_off, scores_of
from rlaifv_kedro.benchmarks.statistics import Estimate, image_numbers, share
from rlaifv_kedro.claims import ask_yes_no
from rlaifv_kedro.engine.chunks import Work
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, ModelsParams
from rlaifv_kedro.preference.verdicts import accepted
from rlaifv_kedro.progress import batches
from rlaifv_kedro.schemas import table

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel

PROBES = "yes_no"
"""The name in the column ``benchmark`` of the metrics of yes/no questions with a known answer."""


def policy_name(iteration: int) -> str:
    """How the tables call the policy that an iteration has selected; 0 is the base policy."""
    return f"iteration_{iteration}" if iteration else "base"


def answer_prompts(
    model: "TransformersModel", policy: str, prompts: Sequence[Any], params: EvaluationParams
) -> pd.DataFrame:
    """Greedy answers of a policy: the ``answers`` table.

    Args:
        policy: How the table calls it.
        prompts: Rows of ``prompts``.
    """
    from rlaifv_kedro.models import Decoding, Question

    decoding = Decoding(temperature=0, max_new_tokens=params.max_new_tokens)
    rows = []
    for part in batches(prompts, params.batch_size, "answering"):
        questions = [Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row in part]
        sampled = model.sample(questions, [[0]] * len(part), decoding)
        rows += [
            (policy, CHAIR.name, p.prompt_id, p.question, a.text, a.token_count, a.finish_reason)
            for p, [a] in zip(part, sampled)
        ]
    return table("answers").frame(rows)


@contextmanager
def prompt_answerer(params: EvaluationParams, models: ModelsParams, compute: ComputeParams) -> Iterator[Work]:
    """The work gives ``answers`` of one (policy's checkpoint, its name, rows of ``prompts``).

    It loads a policy at a time, and none where there are no rows.
    """
    loaded: dict[Path, TransformersModel] = {}

    def work(some: list[tuple[Path, str, list[Any]]]) -> pd.DataFrame:
        [(checkpoint, name, prompts)] = some
        if not prompts:
            return table("answers").frame([])
        if checkpoint not in loaded:
            loaded.clear()
            loaded[checkpoint] = load_policy(checkpoint, params.batch_size, models, compute)
        return answer_prompts(loaded[checkpoint], name, prompts, params)

    yield work


@contextmanager
def policy_answerer(
    checkpoint: Path, policy: str, params: EvaluationParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Loads a policy; the work gives ``answers`` of rows of ``prompts``."""
    model = load_policy(checkpoint, params.batch_size, models, compute)
    yield lambda prompts: answer_prompts(model, policy, prompts, params)


def score_answers(
    answers: pd.DataFrame, prompts: pd.DataFrame, truth: pd.DataFrame, decoding: str = "greedy"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a policy's answers to the loop's prompts are worth by CHAIR.

    Args:
        answers: Table ``answers`` of one policy.
        truth: Table ``coco_truth`` of the prompts' images.
        decoding: How the answers were come by, for the metrics' protocol.

    Returns:
        Tables ``item_scores`` and ``metrics``.
    """
    [policy] = answers["policy"].unique()
    items = prompt_items(prompts)
    log_cut_off(CHAIR, items, answers, "evaluation.max_new_tokens")
    answered = answered_items(items, answers)
    scored = scores_of(CHAIR, policy, Submission(answered, known={"truth": truth}), decoding)
    return scored.items, scored.metrics


def probes_by_image(prompts: pd.DataFrame, probes: pd.DataFrame) -> LazyItems:
    """Yes/no questions with known answers, an item an image: (row of ``prompts``, rows of ``probes``)."""
    about = {row.image_id: row for row in prompts.itertuples(index=False)}
    own = probes.groupby("image_id", sort=False).indices
    return LazyItems(list(own), lambda images: [(about[i], probes.iloc[own[i]]) for i in images])


def answer_probes(
    model: "TransformersModel",
    probes: Sequence[tuple[Any, pd.DataFrame]],
    feedback: FeedbackParams,
    params: EvaluationParams,
) -> pd.DataFrame:
    """How a model's replies to yes/no questions begin: the table ``probe_replies``.

    Args:
        probes: Items of :func:`probes_by_image`.
    """
    rows: list[tuple[str, float, float]] = []
    for part in batches(probes, params.batch_size, "answering yes/no questions"):
        images = [open_image(row.image, f"prompt {row.prompt_id}") for row, _ in part]
        replies = ask_yes_no(model, images, [own["question"].tolist() for _, own in part], feedback)
        ids = [item_id for _, own in part for item_id in own["item_id"]]
        flat = (reply.probs for own in replies for reply in own)
        rows += [(item_id, *probs) for item_id, probs in zip(ids, flat, strict=True)]
    return table("probe_replies").frame(rows)


@contextmanager
def probe_answerer(
    checkpoint: Path,
    feedback: FeedbackParams,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Work]:
    """Loads a policy; the work gives ``probe_replies`` of items of :func:`probes_by_image`."""
    model = load_policy(checkpoint, params.batch_size, models, compute)
    yield lambda probes: answer_probes(model, probes, feedback, params)


def score_probes(
    replies: pd.DataFrame, probes: pd.DataFrame, policy: str, feedback: FeedbackParams
) -> pd.DataFrame:
    """How well a model sees: its accuracy on yes/no questions with a known answer, by kind of question.

    Args:
        replies: Table ``probe_replies``.
        policy: How the table calls it.

    Returns:
        Table ``metrics``, of the benchmark ``yes_no``. ``failed`` are the replies that are neither yes nor no
        (``feedback.min_verdict_mass``), which aren't in the rate.
    """
    answered = replies.merge(probes, on="item_id", validate="one_to_one")
    read = accepted(answered["p_yes"], answered["p_no"], feedback.min_verdict_mass)
    right = answered.assign(right=read == (answered["answer"] == "yes").to_numpy())
    rows = [
        (f"accuracy_{kind}", *_share_right(own), int(own["right"].isna().sum()))
        for kind, own in right.groupby("kind", sort=True)
    ]
    metrics = pd.DataFrame(rows, columns=["metric", "value", "n", "standard_error", "failed"])
    protocol = "p(yes) > p(no), one question a prompt"
    return metrics.assign(policy=policy, benchmark=PROBES, protocol=protocol)


def _share_right(probes: pd.DataFrame) -> Estimate:
    known = probes.dropna(subset=["right"])
    return share(known["right"].to_numpy(dtype=bool), image_numbers(known["image_id"]))


def load_policy(
    checkpoint: Path, batch_size: int, models: ModelsParams, compute: ComputeParams
) -> "TransformersModel":
    """A policy's checkpoint, loaded as ``models.policy`` says."""
    from rlaifv_kedro.models import Loading, load_model

    return load_model(checkpoint, Loading.of(models.policy, compute, batch_size))
