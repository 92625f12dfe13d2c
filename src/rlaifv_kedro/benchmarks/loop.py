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
from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, ModelsParams
from rlaifv_kedro.preference.verdicts import accepted
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


def answer_probes(
    model: "TransformersModel",
    policy: str,
    prompts: pd.DataFrame,
    probes: pd.DataFrame,
    feedback: FeedbackParams,
    params: EvaluationParams,
) -> pd.DataFrame:
    """How well a model sees: its accuracy on yes/no questions with a known answer, by kind of question.

    Args:
        policy: How the table calls it.

    Returns:
        Table ``metrics``, of the benchmark ``yes_no``. ``failed`` are the replies that are neither yes nor no
        (``feedback.min_verdict_mass``), which aren't in the rate.
    """
    about = {row.image_id: row for row in prompts.itertuples(index=False)}
    judged = []
    asked = probes["image_id"].drop_duplicates().tolist()
    for part in batches(asked, params.batch_size, "answering yes/no questions"):
        groups = list(probes[probes["image_id"].isin(part)].groupby("image_id", sort=False))
        replies = ask_yes_no(
            model,
            [open_image(about[i].image, f"prompt {about[i].prompt_id}") for i, _ in groups],
            [group["question"].tolist() for _, group in groups],
            feedback,
        )
        flat = [reply.probs for own in replies for reply in own]
        read = accepted(*zip(*flat), feedback.min_verdict_mass)
        judged.append(pd.concat([group for _, group in groups]).assign(yes=read))
    answered = pd.concat(judged)
    right = answered.assign(right=answered["yes"] == (answered["answer"] == "yes"))
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
