"""The DPO objective (Rafailov et al. 2023, equation 7) and the signs by which a collapse is recognised."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class PreferenceLoss:
    """Loss of a batch of pairs, and what is worth watching; all but ``loss`` detached, means over the batch.

    Attributes:
        dpo: The DPO part, unweighted; ln 2 where the policy is its own reference.
        largest_log_ratio: The largest absolute log-ratio of any answer, in nats; 0 where the policy is its own reference.
        reward_margin: beta * (log-ratio of chosen - log-ratio of rejected).
        reward_accuracy: Share of pairs with a positive margin.
        log_ratio_chosen: log pi(chosen) - log pi_ref(chosen).
        log_ratio_rejected: The same for the rejected answers.
    """

    loss: torch.Tensor
    dpo: torch.Tensor
    largest_log_ratio: torch.Tensor
    reward_margin: torch.Tensor
    reward_accuracy: torch.Tensor
    log_ratio_chosen: torch.Tensor
    log_ratio_rejected: torch.Tensor


def preference_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, reference_chosen: torch.Tensor, reference_rejected: torch.Tensor, *, beta: float,
    dpo_weight: float = 1.0, sft_weight: float = 0.0, chosen_tokens: torch.Tensor | None = None,
) -> PreferenceLoss:  # fmt: skip
    """Sigmoid DPO on summed log-probs, optionally with an SFT term on the chosen answers.

    loss = dpo_weight * -log sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))
           + sft_weight * -chosen / chosen_tokens

    Args:
        chosen, rejected, reference_chosen, reference_rejected: Summed log-probs, float (pairs,).
        dpo_weight: 0 leaves supervised fine-tuning on the chosen answers (rejection sampling), the baseline of docs/miniature.md.
        chosen_tokens: Tokens of the chosen answers, (pairs,); needed with an SFT term.
    """
    ratio_chosen, ratio_rejected = chosen - reference_chosen, rejected - reference_rejected
    margin = beta * (ratio_chosen - ratio_rejected)
    dpo = -F.logsigmoid(margin)
    loss = dpo_weight * dpo.mean()
    if sft_weight:
        loss = loss - sft_weight * (chosen / chosen_tokens).mean()
    largest = torch.cat([ratio_chosen, ratio_rejected]).abs().max()
    watched = (dpo, largest, margin, (margin > 0).float(), ratio_chosen, ratio_rejected)
    return PreferenceLoss(loss, *(t.detach().mean() for t in watched))
