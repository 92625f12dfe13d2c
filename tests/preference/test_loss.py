"""The DPO objective, worked by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from rlaifv_kedro.preference.loss import Objective, preference_loss

CHOSEN, REJECTED = torch.tensor([-10.0, -4.0]), torch.tensor([-12.0, -9.0])
REFERENCE_CHOSEN, REFERENCE_REJECTED = torch.tensor([-11.0, -6.0]), torch.tensor([-10.0, -13.0])


def softplus(x: float) -> float:
    """-log sigmoid(-x) = log(1 + e^x)"""
    return math.log1p(math.exp(x))


def test_by_hand() -> None:
    """log-ratio of chosen  = (-10 + 11, -4 + 6) = (1, 2); of rejected = (-12 + 10, -9 + 13) = (-2, 4)
    margins = 0.5 * (1 + 2, 2 - 4) = (1.5, -1)
    losses  = -log sigmoid = (log(1 + e^-1.5), log(1 + e^1)) = (0.201413, 1.313262), mean 0.757338
    """
    result = preference_loss(CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, Objective(beta=0.5))
    assert_close(result.loss.item(), 0.757338, atol=1e-6, rtol=0)
    assert_close(result.loss.item(), (softplus(-1.5) + softplus(1)) / 2, atol=1e-6, rtol=0)
    assert_close(result.dpo, result.loss)
    watched = (
        result.reward_margin,
        result.reward_accuracy,
        result.log_ratio_chosen,
        result.log_ratio_rejected,
    )
    assert [w.item() for w in watched] == [0.25, 0.5, 1.5, 1.0]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_a_policy_that_is_its_own_reference_starts_at_ln_2(beta: float) -> None:
    """And no pair counts as won: the margin is 0, not positive."""
    result = preference_loss(CHOSEN, REJECTED, CHOSEN, REJECTED, Objective(beta=beta))
    assert_close(result.loss.item(), math.log(2), atol=1e-7, rtol=0)
    assert (result.reward_margin.item(), result.reward_accuracy.item()) == (0, 0)


def test_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    """d loss / d chosen = -beta * sigmoid(-margin) / pairs; at the start = -0.1 * 0.5 / 2 = -0.025, and
    +0.025 for the rejected.
    """
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    preference_loss(chosen, rejected, CHOSEN, REJECTED, Objective(beta=0.1)).loss.backward()
    assert_close(chosen.grad, torch.full((2,), -0.025))
    assert_close(rejected.grad, torch.full((2,), 0.025))


def test_sft_term_is_the_loss_a_token() -> None:
    """-chosen / tokens = (10 / 5, 4 / 8) = (2, 0.5), mean 1.25; 0.4 of it on top of ln 2."""
    tokens = torch.tensor([5, 8])
    result = preference_loss(
        CHOSEN, REJECTED, CHOSEN, REJECTED, Objective(beta=0.1, sft_weight=0.4), chosen_mean=CHOSEN / tokens
    )
    assert_close(result.loss.item(), math.log(2) + 0.4 * 1.25, atol=1e-6, rtol=0)
    assert_close(result.dpo.item(), math.log(2), atol=1e-6, rtol=0)


def test_label_smoothing_by_hand() -> None:
    """margins = (1.5, -1), as above; a tenth of the labels is taken to be wrong
    losses  = (0.9 * log(1 + e^-1.5) + 0.1 * log(1 + e^1.5), 0.9 * log(1 + e^1) + 0.1 * log(1 + e^-1))
            = (0.9 * 0.201413 + 0.1 * 1.701413, 0.9 * 1.313262 + 0.1 * 0.313262) = (0.351413, 1.213262), mean
            0.782338
    """
    result = preference_loss(
        CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, Objective(beta=0.5, label_smoothing=0.1)
    )
    assert_close(result.losses, torch.tensor([0.351413, 1.213262]), atol=1e-6, rtol=0)
    assert_close(result.loss.item(), 0.782338, atol=1e-6, rtol=0)
    assert_close(result.dpo, result.loss)
    start = preference_loss(CHOSEN, REJECTED, CHOSEN, REJECTED, Objective(beta=0.5, label_smoothing=0.1))
    assert_close(start.loss.item(), math.log(2), atol=1e-7, rtol=0)


def test_label_smoothing_stops_at_its_margin() -> None:
    """d loss / d chosen = -beta * (1 - eps - sigmoid(margin)): with eps 0.1 it is 0 at sigmoid(margin) = 0.9,
    margin = ln 9, and turns round there. At margin 0 it is -0.5 * (0.9 - 0.5) = -0.2.
    """

    def gradient(margin: float) -> float:
        chosen = torch.tensor([margin / 0.5], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.float64)
        preference_loss(chosen, zero, zero, zero, Objective(beta=0.5, label_smoothing=0.1)).loss.backward()
        return chosen.grad.item()

    assert gradient(0) == pytest.approx(-0.2)
    assert gradient(math.log(9)) == pytest.approx(0, abs=1e-12)
    assert gradient(3) > 0


def test_each_pair_has_its_loss() -> None:
    """log(1 + e^-1.5) + 0.4 * 2 and log(1 + e^1) + 0.4 * 0.5; ``loss`` is their mean."""
    tokens = torch.tensor([5, 8])
    result = preference_loss(
        CHOSEN,
        REJECTED,
        REFERENCE_CHOSEN,
        REFERENCE_REJECTED,
        Objective(beta=0.5, sft_weight=0.4),
        chosen_mean=CHOSEN / tokens,
    )
    assert_close(result.losses, torch.tensor([softplus(-1.5) + 0.8, softplus(1) + 0.2]))
    assert_close(result.loss, result.losses.mean())


def test_without_dpo_only_the_chosen_answers_teach() -> None:
    """The DPO part is still told: margins 0.1 * (3, -2), losses (log(1 + e^-0.3), log(1 + e^0.2)) =
    (0.554355, 0.798139), mean 0.676247.
    """
    rejected = REJECTED.clone().requires_grad_()
    chosen = CHOSEN.clone().requires_grad_()
    result = preference_loss(
        chosen,
        rejected,
        REFERENCE_CHOSEN,
        REFERENCE_REJECTED,
        Objective(beta=0.1, dpo_weight=0, sft_weight=1),
        chosen_mean=chosen / torch.tensor([5, 8]),
    )
    result.loss.backward()
    assert_close(result.loss.item(), 1.25)
    assert_close(result.dpo.item(), 0.676247, atol=1e-6, rtol=0)
    assert_close(chosen.grad, torch.tensor([-1 / 10, -1 / 16]))
    assert rejected.grad.abs().max() == 0


def test_large_margins_stay_finite() -> None:
    """-log sigmoid(-1000) = 1000, where exp would overflow."""
    far = preference_loss(
        torch.tensor([-1000.0]), torch.tensor([0.0]), torch.zeros(1), torch.zeros(1), Objective(beta=1.0)
    )
    assert far.loss.item() == 1000
