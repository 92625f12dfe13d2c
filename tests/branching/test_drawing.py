"""Drawing a token from logits: what each setting leaves of a distribution, by hand and against transformers."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from rlaifv_kedro.branching.drawing import SamplingSettings, TokenChooser, penalised, pick


def settings(temperature: float = 1.0, **others: float) -> SamplingSettings:
    return SamplingSettings(temperature, max_new_tokens=6, pad=0, stop=set(), **others)


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 2), (0.69, 2), (0.71, 3), (1 - 2**-53, 3)]
)
def test_pick_inverts_the_cumulated_probabilities(uniform: float, token: int) -> None:
    """p = 0.2, 0, 0.5, 0.3: cumulated 0.2, 0.2, 0.7, 1. A token without probability is never drawn, the
    largest uniform stays inside.
    """
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()
    assert pick(logits, torch.tensor([uniform], dtype=torch.float64), settings()).item() == token


@pytest.mark.parametrize(
    ("top_p", "uniform", "token"),
    [
        (0.45, 0.0, 2),
        (0.45, 1 - 2**-53, 2),  # the likeliest one alone
        (0.6, 0.0, 2),
        (0.6, 0.62, 2),
        (0.6, 0.63, 3),
        (0.6, 1 - 2**-53, 3),  # 0.5 and 0.3, of 0.8: cumulated 0.625, 1
        (0.9, 0.19, 0),
        (0.9, 0.21, 2),  # all three are needed
    ],
)
def test_the_nucleus_is_the_fewest_tokens_that_hold_top_p(top_p: float, uniform: float, token: int) -> None:
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()
    assert pick(logits, torch.tensor([uniform], dtype=torch.float64), settings(top_p=top_p)).item() == token


def test_of_equally_likely_tokens_the_nucleus_takes_the_first() -> None:
    """Four of 0.25, of which two hold a half: cumulated 0.5, 1. The temperature doesn't matter to them."""
    uniforms = torch.tensor([0.0, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    for temperature in (0.2, 1.0):
        found = pick(torch.zeros(4, 4), uniforms, settings(temperature, top_p=0.5))
        assert found.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_is_transformers_one(top_p: float) -> None:
    """Its warper comes after the temperature as well. Drawn at 2000 numbers, every token gets its share to
    1/2000.
    """
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 3
    expected = TopPLogitsWarper(top_p)(None, logits / 0.7).softmax(-1)
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for row, probs in zip(logits, expected):
        drawn = pick(row.expand(2000, -1), uniforms, settings(0.7, top_p=top_p)).bincount(minlength=30) / 2000
        assert not drawn[probs == 0].any()
        torch.testing.assert_close(drawn.float(), probs, atol=1.01 / 2000, rtol=0)


@pytest.mark.parametrize(
    ("top_k", "uniform", "token"),
    [
        (1, 1 - 2**-53, 2),  # the likeliest one alone
        (2, 0.62, 2),
        (2, 0.63, 3),  # 0.5 and 0.3, of 0.8: cumulated 0.625, 1
        (3, 0.19, 0),
        (9, 0.19, 0),  # more than there are: all of them
    ],
)
def test_top_k_leaves_the_likeliest_tokens(top_k: int, uniform: float, token: int) -> None:
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()
    assert pick(logits, torch.tensor([uniform], dtype=torch.float64), settings(top_k=top_k)).item() == token


def test_tokens_as_likely_as_the_last_of_top_k_stay() -> None:
    """0.4 and three of 0.2: with top-k 2 nothing says which of the three should go."""
    logits = torch.tensor([[0.2, 0.4, 0.2, 0.2]]).log().expand(4, -1)
    uniforms = torch.tensor([0.1, 0.5, 0.7, 0.9], dtype=torch.float64)
    assert pick(logits, uniforms, settings(top_k=2)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("top_k", [1, 2, 7, 30])
def test_top_k_is_transformers_one(top_k: int) -> None:
    """Rounded logits, so that some are equal. Before it comes the temperature, after it top-p."""
    logits = (torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 3).round()
    expected = TopPLogitsWarper(0.9)(None, TopKLogitsWarper(top_k)(None, logits / 0.7)).softmax(-1)
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for row, probs in zip(logits, expected):
        drawn = pick(row.expand(2000, -1), uniforms, settings(0.7, top_k=top_k))
        alone = TopKLogitsWarper(top_k)(None, row[None] / 0.7).softmax(-1)[0]
        torch.testing.assert_close(
            (drawn.bincount(minlength=30) / 2000).float(), alone, atol=1.01 / 2000, rtol=0
        )
        if not row.unique(return_counts=True)[1].gt(1).any():  # of equal ones top-p takes another
            both = pick(row.expand(2000, -1), uniforms, settings(0.7, top_k=top_k, top_p=0.9))
            assert not (both.bincount(minlength=30) / 2000)[probs == 0].any()


def test_the_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    """arXiv 1909.05858, as transformers writes it: 3 / 1.5 = 2, -2 * 1.5 = -3; a token that came twice is
    penalised once, one that is suppressed stays so.
    """
    logits = torch.tensor([[[3.0, -2.0, 0.0, -torch.inf, 1.0]]])
    drawn = torch.tensor([[[0, 1, 1, 2, 3]]])
    assert penalised(logits, drawn, 1.5).tolist() == [[[2.0, -3.0, 0.0, -torch.inf, 1.0]]]
    assert torch.equal(penalised(logits, drawn[..., :0], 1.5), logits)


def test_the_penalty_is_transformers_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 30, generator=generator)
    drawn = torch.randint(30, (6, 10), generator=generator)
    expected = RepetitionPenaltyLogitsProcessor(1.1)(drawn, logits)
    torch.testing.assert_close(penalised(logits, drawn, 1.1), expected, atol=0, rtol=0)


def test_a_sample_is_penalised_for_its_own_tokens() -> None:
    """Two samples of equal logits, 2 and 1.9: the one that had token 0 takes token 1 now."""
    choose = TokenChooser.by_seeds(settings(0.0, repetition_penalty=1.1), [[0, 0]], torch.device("cpu"))
    logits = torch.tensor([[[2.0, 1.9], [2.0, 1.9]]])
    assert choose(logits, torch.tensor([[[0], [1]]])).tolist() == [[1, 0]]
    padding = 7  # outside the vocabulary, as LLaVA's is
    assert choose(logits, torch.tensor([[[0], [padding]]]))[0, 0] == 1
