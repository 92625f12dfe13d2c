"""The DPO objective (Rafailov et al. 2023, equation 7) and the signs by which a collapse is recognised."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from rlaifv_kedro.params import TrainingParams


@dataclass(frozen=True)
class Objective:
    """What :func:`preference_loss` adds up, and how much of each.

    Attributes:
        beta: Weight of the KL term.
        dpo_weight: 0 leaves supervised fine-tuning on the chosen answers (rejection sampling), the baseline
            of docs/miniature.md.
        label_smoothing: Share of pairs whose chosen answer is taken to be the worse one (conservative DPO,
            ericmitchell.ai/cdpo.pdf).
        sft_weight: Weight of the log-prob a token of the chosen answers.
    """

    beta: float
    dpo_weight: float = 1.0
    label_smoothing: float = 0.0
    sft_weight: float = 0.0

    @classmethod
    def of(cls, params: "TrainingParams") -> "Objective":
        """As the parameters of a training ask for."""
        return cls(params.beta, params.dpo_weight, params.label_smoothing, params.sft_weight)


@dataclass(frozen=True)
class PreferenceLoss:
    """Loss of a batch of pairs, and what is worth watching.

    All but ``losses`` and ``loss`` are detached; all but ``losses`` and ``log_ratios`` are means over the
    batch.

    Attributes:
        losses: The loss of each pair, float (pairs,); ``loss`` is their mean.
        dpo: The DPO part, unweighted; ln 2 where the policy is its own reference, whatever beta, reduction
            and label smoothing.
        log_ratios: Of each pair's chosen and rejected answer, in nats an answer: float (2, pairs); 0 where
            the policy is its own reference.
        reward_margin: beta * (log-ratio of chosen - log-ratio of rejected), of the log-probs as they were
            reduced.
        reward_accuracy: Share of pairs with a positive margin.
        log_ratio_chosen: log pi(chosen) - log pi_ref(chosen), in nats an answer.
        log_ratio_rejected: The same for the rejected answers.
    """

    losses: torch.Tensor
    loss: torch.Tensor
    dpo: torch.Tensor
    log_ratios: torch.Tensor
    reward_margin: torch.Tensor
    reward_accuracy: torch.Tensor
    log_ratio_chosen: torch.Tensor
    log_ratio_rejected: torch.Tensor


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    objective: Objective,
    *,
    chosen_mean: torch.Tensor | None = None,
    lengths: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> PreferenceLoss:
    """Sigmoid DPO, optionally with smoothed labels and an SFT term on the chosen answers.

    ::

        margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
        dpo    = (1 - label_smoothing) * -log sigmoid(margin) + label_smoothing * -log sigmoid(-margin)
        loss   = dpo_weight * dpo + sft_weight * -chosen_mean

    Args:
        chosen, rejected, reference_chosen, reference_rejected: Log-probs as
            :func:`rlaifv_kedro.preference.objective.reduced` makes them, in nats, float (pairs,).
        chosen_mean: Log-prob a token of the chosen answers, (pairs,), whatever the reduction; needed with an
            SFT term.
        lengths: Tokens of the chosen and of the rejected answers, (pairs,) each, if log-probs are a token's
            and not an answer's: log-ratios are told for whole answers.
    """
    ratio_chosen, ratio_rejected = chosen - reference_chosen, rejected - reference_rejected
    margin = objective.beta * (ratio_chosen - ratio_rejected)
    dpo = -F.logsigmoid(margin)
    if objective.label_smoothing:
        flipped = objective.label_smoothing * F.logsigmoid(-margin)
        dpo = (1 - objective.label_smoothing) * dpo - flipped
    losses = objective.dpo_weight * dpo
    if objective.sft_weight:
        losses = losses - objective.sft_weight * chosen_mean
    if lengths is not None:
        ratio_chosen, ratio_rejected = ratio_chosen * lengths[0], ratio_rejected * lengths[1]
    ratios = torch.stack([ratio_chosen, ratio_rejected]).detach()
    watched = (margin, (margin > 0).float(), *ratios)
    means = (t.detach().mean() for t in watched)
    return PreferenceLoss(losses, losses.mean(), dpo.detach().mean(), ratios, *means)
