"""How an answer's log-probs become one number: worked by hand, and in trainings of the tiny model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from rlaifv_kedro.branching import Pack, collate
from rlaifv_kedro.branching.forward import BranchLogProbs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.preference.data import PairPack, branches_of_pairs, weights_of_pairs
from rlaifv_kedro.preference.loss import Objective, preference_loss
from rlaifv_kedro.preference.objective import reduced
from rlaifv_kedro.preference.weights import SUM, Reduction, changed_tokens
from tiny_training import WHOLE, Runner, reference_of

END = 2
# The first differs from the second in "11 12" for "13", from the third in "14 12" for "11" and one token
# less.
FIRST, SECOND, THIRD = [5, 11, 12, 6, END], [5, 13, 6, END], [5, 14, 12, 12, 6, END]
LOG_PROBS = {
    "first": [-1.0, -2.0, -3.0, -1.0, -1.0],
    "second": [-1.0, -4.0, -2.0, -1.0],
    "third": [-1.0, -2.0, -1.0, -3.0, -1.0, -2.0],
}
MEAN, WEIGHTED = Reduction("mean"), Reduction("weighted", 5.0)


def both_sides(packs: list[PairPack], log_probs: list[float], reduction: Reduction) -> list[list[float]]:
    """The reduced log-probs of the chosen and of the rejected answers of all pairs of these packs, whose
    branches' tokens have these log-probs.
    """
    scored = BranchLogProbs.of_tokens(torch.tensor(log_probs), collate([p.pack for p in packs], pad=0))
    return [
        side.tolist()
        for side in reduced(scored, *branches_of_pairs(packs).unbind(1), weights_of_pairs(packs, reduction))
    ]


def two_pairs_of_one_prompt() -> list[PairPack]:
    """The first answer is chosen over the second and over the third; they share a prefix, and the first is
    there once.
    """
    return [PairPack(None, Pack([1, 1], [FIRST, SECOND, THIRD]), [(0, 1), (0, 2)])]


def test_changed_tokens_are_those_outside_the_matching_blocks() -> None:
    """First and second share 5 and "6 end". First and third share 5 and "12 6 end": of the third's two 12s
    the one beside 6 matches.
    """
    assert [mask.tolist() for mask in changed_tokens(FIRST, SECOND)] == [
        [False, True, True, False, False],
        [False, True, False, False],
    ]
    assert [mask.tolist() for mask in changed_tokens(FIRST, THIRD)] == [
        [False, True, False, False, False],
        [False, True, True, False, False, False],
    ]
    assert not any(mask.any() for mask in changed_tokens(FIRST, FIRST))
    assert all(mask.all() for mask in changed_tokens([7, 8], [9]))


def test_frequent_tokens_of_long_answers_are_no_junk() -> None:
    """difflib would take a token that makes up more than 1 % of 200 or more for junk, and so call
    everything changed.
    """
    chosen, rejected = changed_tokens([7, 8] * 150 + [END], [7, 8] * 150 + [9])
    assert (chosen.sum(), rejected.sum()) == (1, 1)


def test_weights_by_hand() -> None:
    """N = 3 + 5 * 2 = 13 for the first answer, 3 + 5 * 1 = 8 for the second."""
    first, second = WEIGHTED.shares(FIRST, SECOND)
    np.testing.assert_allclose(first, [1 / 13, 5 / 13, 5 / 13, 1 / 13, 1 / 13])
    np.testing.assert_allclose(second, [1 / 8, 5 / 8, 1 / 8, 1 / 8])
    for ours, mean in zip(Reduction("weighted", 1.0).shares(FIRST, SECOND), MEAN.shares(FIRST, SECOND)):
        np.testing.assert_array_equal(ours, mean)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # first -1 - 2 - 3 - 1 - 1, second -1 - 4 - 2 - 1, third -1 - 2 - 1 - 3 - 1 - 2
        (SUM, [[-8, -8], [-8, -10]]),
        # over 5, 4 and 6 tokens
        (MEAN, [[-8 / 5, -8 / 5], [-8 / 4, -10 / 6]]),
        # Pair 1: (-1 - 1 - 1 + 5 * (-2 - 3)) / (3 + 10) = -28 / 13, against (-1 - 2 - 1 + 5 * -4) / (3 + 5) =
        # -24 / 8. Pair 2: (-1 - 3 - 1 - 1 + 5 * -2) / (4 + 5) = -16 / 9, against (-1 - 3 - 1 - 2 + 5 * (-2 -
        # 1)) / (4 + 10) = -22 / 14.
        (WEIGHTED, [[-28 / 13, -16 / 9], [-24 / 8, -22 / 14]]),
    ],
)
def test_reduction_by_hand(reduction: Reduction, expected: list[list[float]]) -> None:
    """A branch of two pairs is in the second as if it were alone there; the tokens at which it differs are
    others.
    """
    values = [*LOG_PROBS["first"], *LOG_PROBS["second"], *LOG_PROBS["third"]]
    np.testing.assert_allclose(both_sides(two_pairs_of_one_prompt(), values, reduction), expected, rtol=1e-6)
    apart = [
        PairPack(None, Pack([1], [FIRST, SECOND]), [(0, 1)]),
        PairPack(None, Pack([1, 1, 1], [FIRST, THIRD]), [(0, 1)]),
    ]
    values = [*LOG_PROBS["first"], *LOG_PROBS["second"], *LOG_PROBS["first"], *LOG_PROBS["third"]]
    np.testing.assert_allclose(both_sides(apart, values, reduction), expected, rtol=1e-6)


@pytest.mark.parametrize("reduction", [MEAN, WEIGHTED])
def test_gradients_by_hand(reduction: Reduction) -> None:
    """Each token learns by its weight; the first answer's by those of both pairs: for the mean 2 / 5,
    weighted by the changes e.g. 1 / 13 + 1 / 9.
    """
    packs = two_pairs_of_one_prompt()
    tokens = torch.zeros(15, requires_grad=True)
    scored = BranchLogProbs.of_tokens(tokens, collate([p.pack for p in packs], pad=0))
    chosen, rejected = reduced(
        scored, *branches_of_pairs(packs).unbind(1), weights_of_pairs(packs, reduction)
    )
    (chosen.sum() - rejected.sum()).backward()
    expected = {
        "mean": [2 / 5] * 5 + [-1 / 4] * 4 + [-1 / 6] * 6,
        "weighted": [
            *(1 / 13 + 1 / 9, 5 / 13 + 5 / 9, 5 / 13 + 1 / 9, 1 / 13 + 1 / 9, 1 / 13 + 1 / 9),
            *(-1 / 8, -5 / 8, -1 / 8, -1 / 8),
            *(-1 / 14, -5 / 14, -5 / 14, -1 / 14, -1 / 14, -1 / 14),
        ],
    }
    assert_close(tokens.grad, torch.tensor(expected[reduction.kind]))


def test_a_sum_has_no_weights() -> None:
    assert weights_of_pairs(two_pairs_of_one_prompt(), SUM) is None
    with pytest.raises(ValueError, match="no weights"):
        SUM.shares(FIRST, SECOND)


def test_a_reference_is_named_by_what_it_depends_on() -> None:
    """The weight of changed tokens matters only where there is one."""
    assert [str(r) for r in (SUM, MEAN, WEIGHTED, Reduction("weighted", 2.5))] == [
        "sum",
        "mean",
        "weighted 5",
        "weighted 2.5",
    ]
    assert str(Reduction("mean", 2.5)) == str(MEAN)


def test_mean_log_probs_in_the_loss_by_hand() -> None:
    """Of 5 and 4 tokens: means -8 / 5 = -1.6 and -8 / 4 = -2, by the reference -2.1 and -1.8
    margin = 4 * ((-1.6 + 2.1) - (-2 + 1.8)) = 4 * (0.5 + 0.2) = 2.8
    loss   = log(1 + e^-2.8) = 0.059033
    log-ratios of whole answers = 5 * 0.5, 4 * -0.2 = 2.5, -0.8
    """
    values = (torch.tensor([v]) for v in (-1.6, -2.0, -2.1, -1.8))
    result = preference_loss(*values, Objective(beta=4), lengths=(torch.tensor([5]), torch.tensor([4])))
    assert_close(result.loss.item(), 0.059033, atol=1e-6, rtol=0)
    watched = (
        result.reward_margin,
        result.log_ratio_chosen,
        result.log_ratio_rejected,
        result.log_ratios.abs().max(),
    )
    assert [w.item() for w in watched] == pytest.approx([2.8, 2.5, -0.8, 2.5], abs=1e-5)


def test_weighted_log_probs_in_the_loss_by_hand() -> None:
    """Pair 1 of above: -28 / 13 = -2.153846 and -24 / 8 = -3; the reference's tokens all -2, so -2 and -2
    whatever the weights margin = 0.5 * (-0.153846 + 1) = 0.423077,  loss = log(1 + e^-0.423077) = 0.503818
    Summed, -8 + 10 = 2 against -8 + 8 = 0 would be a margin of 1: the changed tokens of the chosen answer
    count against it.
    """
    pair = [PairPack(None, Pack([1], [FIRST, SECOND]), [(0, 1)])]
    policy = both_sides(pair, [*LOG_PROBS["first"], *LOG_PROBS["second"]], WEIGHTED)
    reference = both_sides(pair, [-2.0] * 9, WEIGHTED)
    result = preference_loss(*map(torch.tensor, [*policy, *reference]), Objective(beta=0.5))
    assert_close(result.reward_margin.item(), 0.423077, atol=1e-6, rtol=0)
    assert_close(result.loss.item(), 0.503818, atol=1e-6, rtol=0)


CASES = [
    {"log_probs": "mean", "beta": 1.0},
    {"log_probs": "mean", "beta": 1.0, "pack": "prompt"},
    {"log_probs": "weighted", "beta": 1.0},
    {"log_probs": "weighted", "beta": 1.0, "changed_weight": 2.0, "pack": "prompt"},
    {"label_smoothing": 0.1},
    {"log_probs": "weighted", "beta": 1.0, "label_smoothing": 0.1, "gradient_checkpointing": True},
]


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: " ".join(map(str, changes.values())))
def test_trainings_begin_at_ln_2_and_learn(
    run: Runner, model: TransformersModel, pairs: pd.DataFrame, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Reference and policy reduce alike, also where the one packs all pairs of a prompt and the other each
    pair alone.
    """
    reduction = Reduction(changes.get("log_probs", "sum"), changes.get("changed_weight", 5.0))
    _, log = run(tmp_path, reference=reference_of(model, pairs, WHOLE, reduction), **changes)
    assert log["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-5)
    assert log["reward_margin"].iloc[-1] > 0.1 and log["loss"].iloc[-1] < 0.67


def test_reference_log_probs_are_reduced(
    model: TransformersModel, pairs: pd.DataFrame, reference: pd.DataFrame
) -> None:
    """Means are sums over counts. Weighted ones are neither, and those of one chosen answer differ from
    pair to pair.
    """
    mean, weighted = (reference_of(model, pairs, WHOLE, reduction) for reduction in (MEAN, WEIGHTED))
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(mean[side], reference[side] / reference[f"{side}_tokens"], rtol=1e-6)
        assert (mean[f"{side}_tokens"] == reference[f"{side}_tokens"]).all()
        assert (weighted[side] - mean[side]).abs().min() > 1e-3
    assert mean["chosen"].nunique() == 6 and weighted["chosen"].nunique() == 12
    alone = pd.concat(
        [reference_of(model, pairs[pairs["idx"] == i], WHOLE, WEIGHTED) for i in weighted["idx"]],
        ignore_index=True,
    )
    pd.testing.assert_frame_equal(weighted, alone, rtol=1e-5)


def test_what_is_watched_is_in_nats_an_answer(
    run: Runner, model: TransformersModel, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    """Chosen answers have 9 tokens: 0.02 nats a token are 0.18 nats an answer, too far off, though 0.02 nats
    an answer would pass. Rejected ones have 6 or 10: 0.002 nats a token are 0.012 or 0.02 nats an answer,
    which pass, and are below a threshold of 0.01 for a collapse.
    """
    reference = reference_of(model, pairs, WHOLE, MEAN)
    off = reference.assign(chosen=reference["chosen"] - 0.02)
    with pytest.raises(UserError, match=r"an answer of 9 tokens is 0\.18 nats off"):
        run(tmp_path / "off", reference=off, log_probs="mean")
    off = reference.assign(rejected=reference["rejected"] + 0.002)
    with pytest.raises(
        UserError, match="training collapsed at step 1: the mean log-ratio of the rejected answers"
    ):
        run(tmp_path / "collapsed", reference=off, log_probs="mean", collapse_log_ratio=-0.01)


def test_a_reference_of_sums_is_refused_for_means(
    run: Runner, reference: pd.DataFrame, tmp_path: Path
) -> None:
    """Should its fingerprint have been forged."""
    with pytest.raises(UserError, match="not its own reference"):
        run(tmp_path, reference=reference, log_probs="mean")
