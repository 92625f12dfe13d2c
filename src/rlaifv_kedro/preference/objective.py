"""The log-probs of an answer's tokens as the one number that DPO compares: summed, averaged or weighted.

Policy and reference are reduced by the same code from the same token ids, so that their log-ratio is 0 where
the policy is its own reference.
"""

import torch

from rlaifv_kedro.branching.forward import BranchLogProbs
from rlaifv_kedro.preference.weights import TokenWeights


def reduced(
    scored: BranchLogProbs, chosen: torch.Tensor, rejected: torch.Tensor, weights: TokenWeights | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reduced log-probs of each pair's chosen and rejected answer, float (pairs,) each; differentiable.

    Args:
        chosen, rejected: Each pair's branches among all that were scored, int64 (pairs,).
        weights: See :func:`rlaifv_kedro.preference.weights.token_weights`; without, log-probs are summed.
    """
    if weights is None:
        return scored.sums[chosen], scored.sums[rejected]
    weights = weights.to(scored.tokens.device)
    values = scored.tokens[weights.tokens] * weights.weights.to(scored.tokens.dtype)  # (entries,)
    both = torch.zeros(2 * len(chosen), dtype=values.dtype, device=values.device).index_add(
        0, weights.answers, values
    )
    return both[: len(chosen)], both[len(chosen) :]
