"""Checkpoints to the selected policy, and a policy to answers and metrics."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import CollapseParams, ComputeParams, EvaluationParams, FeedbackParams

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel

logger = logging.getLogger(__name__)

_START = "start"  # the name, in checkpoint_metrics, of the policy the iteration started from
_BENCHMARK = "chair"


def measure_checkpoints(
    checkpoints: list[dict[str, Any]], policy: Path, prompts: pd.DataFrame, instances: dict[str, Any], captions: dict[str, Any],
    params: EvaluationParams, compute: ComputeParams,
) -> pd.DataFrame:  # fmt: skip
    """Measure the starting policy and every checkpoint on the selection split: the ``checkpoint_metrics`` table."""
    from tqdm import tqdm

    start = {"path": policy, "step": 0, "epoch": 0.0, "name": _START}
    named = [start, *({**c, "name": Path(c["path"]).name} for c in checkpoints)]
    frames = []
    for checkpoint in tqdm(named, desc="measuring checkpoints", unit="checkpoint", delay=2):
        answers = answer_prompts(checkpoint["path"], prompts, params, compute)
        metrics = score_answers(answers, instances, captions)[1]
        metrics.insert(0, "checkpoint", checkpoint["name"])
        metrics.insert(1, "step", checkpoint["step"])
        metrics.insert(2, "epoch", checkpoint["epoch"])
        frames.append(metrics)
    return pd.concat(frames, ignore_index=True)


def select_checkpoint(
    checkpoints: list[dict[str, Any]], metrics: pd.DataFrame, params: EvaluationParams, folder: Path
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint with the lowest criterion on the selection split, collapsed ones left out; the first on a tie.

    Returns:
        Its folder (LoRA adapters merged), and what was decided and why.

    Raises:
        UserError: Every checkpoint has collapsed.
    """
    table = metrics.pivot(index="checkpoint", columns="metric", values="value")
    start = table.loc[_START]
    named = {Path(c["path"]).name: c for c in checkpoints}
    signs = {name: collapse_signs(table.loc[name], start, params.collapse) for name in named}
    healthy = [name for name in named if not signs[name]]
    if not healthy:
        last = list(named)[-1]
        raise UserError(
            f"the training collapsed: every checkpoint shows {'; '.join(signs[last])} against the policy it started from. "
            "No policy was selected. Lower training.learning_rate or training.epochs, raise training.beta, or look at preference_pairs."
        )
    for name in set(named) - set(healthy):
        logger.warning("%s is left out of the selection: %s", name, "; ".join(signs[name]))
    best = min(healthy, key=lambda name: table.at[name, params.criterion])
    selection = {
        "selected": best,
        "step": named[best]["step"],
        "epoch": named[best]["epoch"],
        "criterion": params.criterion,
        "value": float(table.at[best, params.criterion]),
        "start": float(start[params.criterion]),
        "collapsed": {name: found for name, found in signs.items() if found},
    }
    return _whole(Path(named[best]["path"]), folder), selection


def collapse_signs(metrics: pd.Series, start: pd.Series, limits: CollapseParams) -> list[str]:
    """What shows that a policy has collapsed, compared with the one it started from; empty if nothing does."""
    signs = []
    change = metrics["mean_words"] / max(start["mean_words"], 1e-9) - 1
    if metrics["empty_share"] > limits.empty_share:
        signs.append(f"{metrics['empty_share']:.0%} empty answers")
    if abs(change) > limits.length_change:
        signs.append(f"answers {change:+.0%} in length")
    if metrics["repeat_rate"] - start["repeat_rate"] > limits.repeat_increase:
        signs.append(f"{metrics['repeat_rate']:.0%} of the answers repeat an object, before {start['repeat_rate']:.0%}")
    if start["object_recall"] - metrics["object_recall"] > limits.recall_drop:
        signs.append(f"object recall fell from {start['object_recall']:.0%} to {metrics['object_recall']:.0%}")
    return signs


def answer_prompts(policy: Path, prompts: pd.DataFrame, params: EvaluationParams, compute: ComputeParams) -> pd.DataFrame:
    """Greedy answers of a policy: the ``answers`` table."""
    from rlaifv_kedro.models import Decoding, Question

    model = _load(policy, params, compute)
    rows = []
    for part in batches(list(prompts.itertuples(index=False)), params.batch_size, "answering"):
        questions = [Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row in part]
        sampled = model.sample(questions, [[0]] * len(part), Decoding(temperature=0, max_new_tokens=params.max_new_tokens))
        rows += [(_BENCHMARK, p.prompt_id, p.image_id, p.question, a[0].text, a[0].token_count) for p, a in zip(part, sampled)]
    return pd.DataFrame(rows, columns=["benchmark", "item_id", "image_id", "question", "answer", "token_count"])


def score_answers(answers: pd.DataFrame, instances: dict[str, Any], captions: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CHAIR by rule on COCO-format truth.

    Returns:
        answer_scores (one row an answer), metrics (one row a metric, with its standard error). Beside CHAIR's: ``faulty_rate``, answers that name
        something that is not there or name something twice; ``empty_share``.
    """
    from rlaifv_kedro.hallucination.chair import chair_items, chair_metrics, truth_from_coco
    from rlaifv_kedro.hallucination.coco_vocabulary import Vocabulary

    vocabulary = Vocabulary.own()
    items = chair_items(answers, truth_from_coco(instances, captions, vocabulary), vocabulary)
    metrics = chair_metrics(items)
    shares = {"faulty_rate": (items["hallucinated_count"] > 0) | items["repeats"], "empty_share": answers["answer"].str.strip() == ""}
    for name, hits in shares.items():
        metrics.loc[len(metrics)] = [name, *_share(hits)]
    metrics = metrics.assign(benchmark=_BENCHMARK, failed=0, protocol=f"CHAIR by rule, vocabulary {vocabulary.label}, greedy")
    return items.assign(benchmark=_BENCHMARK), metrics


def answer_probes(
    policy: Path, prompts: pd.DataFrame, probes: pd.DataFrame, feedback: FeedbackParams, params: EvaluationParams, compute: ComputeParams
) -> pd.DataFrame:
    """How well a model sees: its accuracy on yes/no questions with a known answer, by kind of question (``metrics`` of benchmark ``yes_no``)."""
    model = _load(policy, params, compute)
    images = {row.image_id: open_image(row.image, f"prompt {row.prompt_id}") for row in prompts.itertuples()}
    groups = list(probes.groupby("image_id", sort=False))
    words, split = [*feedback.yes_words, *feedback.no_words], len(feedback.yes_words)
    asked = [[feedback.question_template.format(question=q) for q in group["question"]] for _, group in groups]
    probs = model.first_token_probs([images[image_id] for image_id, _ in groups], asked, words)
    judged = pd.concat([g.assign(yes=p[:, :split].sum(1) > p[:, split:].sum(1)) for (_, g), p in zip(groups, probs)])
    right = judged["yes"] == (judged["answer"] == "yes")
    rows = [
        (f"accuracy_{kind}", r.mean(), len(r), (r.mean() * (1 - r.mean()) / len(r)) ** 0.5) for kind, r in right.groupby(judged["kind"], sort=True)
    ]
    metrics = pd.DataFrame(rows, columns=["metric", "value", "n", "standard_error"])
    return metrics.assign(benchmark="yes_no", failed=0, protocol="p(yes) > p(no), one question a prompt")


def _share(hits: pd.Series) -> tuple[float, int, float]:
    """(share, n, its binomial standard error)."""
    share, n = float(hits.mean()), len(hits)
    return share, n, math.sqrt(share * (1 - share) / n)


def _load(policy: Path, params: EvaluationParams, compute: ComputeParams) -> "TransformersModel":
    from rlaifv_kedro.models import load_model

    return load_model(policy, dtype=compute.dtype, device=compute.device, batch_size=params.batch_size)


def _whole(checkpoint: Path, folder: Path) -> Path:
    """A folder with whole weights: the checkpoint's own, or one with its adapters merged."""
    if not (checkpoint / "adapter_config.json").is_file():
        return checkpoint
    from rlaifv_kedro.models import load_model

    merged = load_model(checkpoint, device="cpu")
    target = folder / f"{checkpoint.name}-merged"
    merged.module.save_pretrained(target)
    merged.processor.save_pretrained(target)
    return target
