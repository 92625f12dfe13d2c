"""Packing against its definition: a branch sees the prefix and itself as if it followed the prefix alone."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaifv_kedro.branching import Pack, collate, common_prefix, pack

TOKENS = st.integers(0, 9)
PACKS = st.lists(
    st.builds(
        Pack, st.lists(TOKENS, min_size=1, max_size=5), st.lists(st.lists(TOKENS, max_size=4), max_size=4)
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(PACKS, TOKENS)
def test_unpack_gives_back_what_went_in(packs: list[Pack], pad: int) -> None:
    assert collate(packs, pad).unpack() == packs


@settings(deadline=None)
@given(PACKS)
def test_a_branch_s_rows_are_the_causal_mask_of_the_separate_sequence(packs: list[Pack]) -> None:
    batch = collate(packs, pad=0)
    mask, segments, positions = (
        t.numpy() for t in (batch.attention_mask[:, 0], batch.segments, batch.position_ids)
    )
    for row, item in enumerate(packs):
        for k, branch in enumerate(item.branches, start=1):
            where = np.flatnonzero((segments[row] == 0) | (segments[row] == k))  # prefix and branch
            causal = np.tril(np.ones((len(where), len(where)), dtype=bool))
            assert np.array_equal(mask[row][np.ix_(where, where)], causal)
            queries = np.flatnonzero(segments[row] == k)
            elsewhere = np.setdiff1d(np.arange(mask.shape[-1]), where)
            assert not mask[row][np.ix_(queries, elsewhere)].any()
            assert positions[row, where].tolist() == list(range(len(item.prefix) + len(branch)))
        prefix = np.flatnonzero(segments[row] == 0)
        assert not mask[row][np.ix_(prefix, np.flatnonzero(segments[row] != 0))].any()
        padding = np.flatnonzero(segments[row] == -1)
        assert not mask[row][np.ix_(np.flatnonzero(segments[row] >= 0), padding)].any()
    assert mask.any(-1).all()  # a row without any key would make the softmax NaN


def test_worked_example() -> None:
    """[7 8 | 1 2 | 3] beside [9 | 4], padded with 0: positions restart at 2 and 1; the 3 sees 7, 8 and
    itself.
    """
    batch = collate([pack([7, 8], [[1, 2], [3]]), pack([9], [[4]])], pad=0)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3], [9, 4, 0, 0, 0]]
    assert batch.segments.tolist() == [[0, 0, 1, 1, 2], [0, 1, -1, -1, -1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert batch.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert (batch.branch_lengths, batch.prefix_lengths) == ([[2, 1], [1]], [2, 1])


def test_an_empty_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix of at least one token"):
        pack([], [[1]])


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # equal ones keep their last token as branches
        ([[1, 2], [1, 2, 3]], 1),
        ([[5, 1], [6, 1]], 0),
        ([[1, 2, 3]], 2),
    ],
)
def test_common_prefix(sequences: list[list[int]], length: int) -> None:
    assert common_prefix(sequences) == length


@pytest.mark.parametrize(
    ("truncation", "keep", "max_length", "prefix", "branches"),
    [
        # a prefix of 4 and branches of 3, 1 and 0: at most 7 tokens together
        ("right", 1, 7, [1, 2, 3, 4], [[5, 6, 7], [8], []]),
        ("left", 1, 7, [1, 2, 3, 4], [[5, 6, 7], [8], []]),
        ("right", 1, 6, [1, 2, 3, 4], [[5, 6], [8], []]),
        ("right", 1, 5, [1, 2, 3, 4], [[5], [8], []]),
        (
            "left",
            1,
            6,
            [1, 3, 4],
            [[5, 6, 7], [8], []],
        ),  # all branches share the shorter prefix, the one of 1 token too
        ("left", 1, 4, [1], [[5, 6, 7], [8], []]),
        ("left", 2, 6, [1, 2, 4], [[5, 6, 7], [8], []]),
        (
            "left",
            2,
            4,
            [1, 2],
            [[5, 6], [8], []],
        ),  # the prefix is as short as it may be, so the branch is cut too
        ("left", 4, 6, [1, 2, 3, 4], [[5, 6], [8], []]),
        ("left", 9, 6, [1, 2, 3, 4], [[5, 6], [8], []]),  # more to keep than there is
    ],
)
def test_truncation_by_example(
    truncation: Literal["right", "left"],
    keep: int,
    max_length: int,
    prefix: list[int],
    branches: list[list[int]],
) -> None:
    given_prefix, given_branches = [1, 2, 3, 4], [[5, 6, 7], [8], []]
    assert pack(given_prefix, given_branches, max_length, truncation, keep) == Pack(prefix, branches)
    assert (given_prefix, given_branches) == ([1, 2, 3, 4], [[5, 6, 7], [8], []])  # untouched


@settings(deadline=None)
@given(
    st.lists(TOKENS, min_size=1, max_size=8),
    st.lists(st.lists(TOKENS, max_size=6), min_size=1, max_size=4).filter(any),
    st.integers(1, 16),
    st.sampled_from(["right", "left"]),
    st.integers(1, 9),
)
def test_truncation(
    prefix: list[int],
    branches: list[list[int]],
    max_length: int,
    truncation: Literal["right", "left"],
    keep: int,
) -> None:
    """Within the limit; the kept head stays; what goes is the prefix's middle (left) or the branches'
    ends; nothing goes that would have fitted.
    """
    shortest = min(len(prefix), keep) if truncation == "left" else len(prefix)
    if shortest >= max_length:
        with pytest.raises(
            ValueError,
            match=f"prefix of {shortest} tokens leaves no room for a branch in max_length={max_length}",
        ):
            pack(prefix, branches, max_length, truncation, keep)
        return
    found = pack(prefix, branches, max_length, truncation, keep)
    assert found.longest <= max_length
    assert found.longest == min(max_length, len(prefix) + max(map(len, branches)))
    head, tail = found.prefix[:keep], found.prefix[keep:]
    assert head == prefix[:keep] and tail == prefix[len(prefix) - len(tail) :]
    assert len(found.branches) == len(branches)
    assert all(branch[: len(short)] == short for short, branch in zip(found.branches, branches))
    if truncation == "right":
        assert found.prefix == prefix
    elif found.branches != branches:
        assert found.prefix == prefix[:keep]  # branches are cut only when the prefix can't be


def test_no_limit_is_no_truncation() -> None:
    assert pack([1, 2], [[3] * 5000]) == Pack([1, 2], [[3] * 5000])


def test_longest() -> None:
    """A prefix of 2 with a branch of 3; all of it is 2 + 1 + 3 tokens; a prefix alone."""
    item = Pack([1, 2], [[3], [4, 5, 6]])
    assert (item.longest, len(item)) == (5, 6)
    assert Pack([1, 2], []).longest == 2
