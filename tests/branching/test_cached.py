"""Prefixes in a cache and branches over it in groups: the same numbers as in one pass, and never more
tokens at once than asked for.
"""

from functools import wraps

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlaifv_kedro.branching import Pack, branch_log_probs, choose_way, collate, next_token_probs
from rlaifv_kedro.branching.cached import cached_log_probs, cached_next_logits
from rlaifv_kedro.branching.pack import within_budget
from rlaifv_kedro.branching.packed import packed_log_probs
from tiny_families import FAMILIES, TEXT, by_hand_log_probs, drawn, together

Lengths = tuple[int, list[int]]  # of a prefix and of its branches
BATCHES = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 6), max_size=5)), min_size=1, max_size=3
)
BATCHES = BATCHES.filter(lambda batch: any(branches for _, branches in batch))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = drawn(LlamaForCausalLM(LlamaConfig(**TEXT)))
    choose_way(model)
    return model


def packs_of(lengths: list[Lengths]) -> list[Pack]:
    generator = torch.Generator().manual_seed(3)

    def words(count: int) -> list[int]:
        return torch.randint(3, 60, (count,), generator=generator).tolist()

    return [Pack(words(prefix), [words(n) for n in branches]) for prefix, branches in lengths]


CASES: dict[str, list[Lengths]] = {
    "one pack": [(6, [3, 2, 5, 1, 4])],
    "different prefixes": [(9, [3, 2]), (1, [4, 4]), (5, [2, 6])],
    "different numbers of branches": [(4, [2]), (3, [3, 1, 2, 5, 2, 2]), (5, [1, 1])],
    "a pack without branches": [(3, [2, 3]), (7, []), (2, [4])],
    "empty branches": [(3, [0, 2, 0, 3]), (2, [0]), (4, [1, 0])],
    "an empty branch after one over the budget": [(3, [6, 0, 4])],
    "only an empty branch": [(8, [0])],
    "one branch over every budget": [(2, [3, 20, 1]), (4, [2])],
    "a short pack beside a long one": [(1, [1]), (9, [6, 6, 6])],
    "single tokens": [(5, [1] * 9), (2, [1] * 4)],
}


@pytest.mark.parametrize("budget", [1, 2, 5, 7, 19])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_one_pass(model: PreTrainedModel, name: str, budget: int) -> None:
    check(model, CASES[name], budget)


@settings(deadline=None, max_examples=60)
@given(BATCHES, st.integers(1, 12))
@example([(1, [1]), (9, [6, 0, 6, 6])], 4)
def test_the_numbers_are_those_of_one_pass_for_any_packs(
    model: PreTrainedModel, lengths: list[Lengths], budget: int
) -> None:
    check(model, lengths, budget)


def check(model: PreTrainedModel, lengths: list[Lengths], budget: int) -> None:
    packs = packs_of(lengths)
    packed = collate(packs, pad=0)
    with torch.no_grad():
        expected = packed_log_probs(model, packed)
    found = cached_log_probs(model, packed, budget)
    assert found.counts.tolist() == [n for _, branches in lengths for n in branches]
    assert_close(found.tokens, expected.tokens, atol=1e-10, rtol=0)
    assert_close(found.sums, expected.sums, atol=1e-10, rtol=0)
    if all(n for _, branches in lengths for n in branches):
        probs = next_token_probs(model, packed, list(range(64)))
        assert_close(cached_next_logits(model, packed, budget).softmax(-1), probs, atol=1e-10, rtol=0)


class Spy:
    """What went through a model's forward pass: the shape of its ids and whether an image came along."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch):
        self.shapes: list[tuple[int, int]] = []
        self.images = 0
        original = model.forward

        @wraps(original)  # the signature says which inputs a family takes
        def forward(*args: object, **kwargs: object) -> object:
            self.shapes.append(tuple(kwargs["input_ids"].shape))
            self.images += kwargs.get("pixel_values") is not None
            return original(*args, **kwargs)

        monkeypatch.setattr(model, "forward", forward)


@pytest.mark.parametrize("scored", ["log-probs", "next-token probabilities"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "only an empty branch"])
@pytest.mark.parametrize("budget", [1, 5, 7])
def test_memory_is_bounded(
    model: PreTrainedModel, name: str, budget: int, scored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefixes are computed once. Every other pass has a row a pack and no more tokens in it than the
    budget, or than the longest branch.
    """
    packs = [p for p in packs_of(CASES[name]) if scored == "log-probs" or all(p.branches)]
    if not packs:
        pytest.skip("an empty branch has no next token")
    spy = Spy(model, monkeypatch)
    packed = collate(packs, pad=0)
    if scored == "log-probs":
        with torch.no_grad():
            branch_log_probs(model, packed, max_tokens_per_pack=budget)
    else:
        next_token_probs(model, packed, [5], max_tokens_per_pack=budget)
    prefill, *groups = spy.shapes
    assert prefill == (len(packs), max(len(p.prefix) for p in packs))
    lengths = [[len(b) for b in p.branches] for p in packs]
    assert all(
        rows == len(packs) and 0 < tokens <= max(budget, *map(max, filter(None, lengths)))
        for rows, tokens in groups
    )
    assert sum(tokens for _, tokens in groups) >= max(map(sum, lengths))
    assert len(groups) <= max(len(within_budget(row, budget)) for row in lengths)


def test_groups_worked_by_hand(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches of 4, 3, 9, 2, 2, 3 tokens in groups of at most 7: 4 + 3, 9, 2 + 2 + 3; of the second pack
    5, 5, 1: 5, 5 + 1.
    """
    spy = Spy(model, monkeypatch)
    with torch.no_grad():
        branch_log_probs(
            model, collate(packs_of([(10, [4, 3, 9, 2, 2, 3]), (4, [5, 5, 1])]), pad=0), max_tokens_per_pack=7
        )
    assert spy.shapes == [(2, 10), (2, 7), (2, 9), (2, 7)]


@pytest.mark.parametrize(("budget", "passes"), [(None, 1), (15, 1), (14, 2), (11, 3)])
def test_packs_within_the_budget_are_one_pass(
    model: PreTrainedModel, budget: int | None, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix of 3 and branches of 6 and 6 tokens, beside a shorter pack: 15 tokens; over that, prefixes
    and groups of branches.
    """
    packed = collate(packs_of([(3, [6, 6]), (4, [2])]), pad=0)
    spy = Spy(model, monkeypatch)
    next_token_probs(model, packed, [5], max_tokens_per_pack=budget)
    assert len(spy.shapes) == passes


def test_gradients_come_from_one_pass(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = packs_of(CASES["different prefixes"])
    spy = Spy(model, monkeypatch)
    branch_log_probs(model, collate(packs, pad=0), max_tokens_per_pack=2).sums.sum().backward()
    assert len(spy.shapes) == 1
    found = model.lm_head.weight.grad.clone()
    model.zero_grad()
    by_hand_log_probs(model, None, packs).sum().backward()
    assert_close(found, model.lm_head.weight.grad, atol=1e-9, rtol=1e-9)
    model.zero_grad()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.way == "packed"])
def test_an_image_is_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[name]
    vlm, (packs, images) = drawn(family.build()), family.packs()
    choose_way(vlm)
    spy = Spy(vlm, monkeypatch)
    found = next_token_probs(vlm, collate(packs, pad=0), [5], max_tokens_per_pack=5, **together(images))
    assert spy.images == 1 and len(spy.shapes) > 2
    assert found.shape == (8, 1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(1, 12))
def test_groups_within_a_budget(lengths: list[int], budget: int) -> None:
    """Every item once and in order; a group over the budget has one item; no two neighbours would fit
    together up to the next one's first item.
    """
    groups = within_budget(lengths, budget)
    assert [i for group in groups for i in group] == list(range(len(lengths)))
    assert all(len(group) for group in groups)
    for group in groups:
        assert sum(lengths[i] for i in group) <= budget or sum(lengths[i] > 0 for i in group) == 1
    for group, following in zip(groups, groups[1:]):
        assert sum(lengths[i] for i in group) + lengths[following[0]] > budget
