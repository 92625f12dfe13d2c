"""Random numbers that depend on (run seed, key of the item) and on nothing else."""

import hashlib
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlaifv_kedro.seeds import generator_for, seed_for

KEYS = st.lists(st.one_of(st.text(max_size=4), st.integers(-3, 3)), max_size=3)


def test_it_is_the_documented_hash() -> None:
    """Stored candidates name their seeds, so another release must not change them: blake2b-64 of the key's
    repr, without its last bit.
    """
    digest = hashlib.blake2b(b"(0, 'candidate', 'p1', 3)", digest_size=8).digest()
    assert seed_for(0, "candidate", "p1", 3) == int.from_bytes(digest, "big") >> 1


@given(KEYS, KEYS)
def test_different_keys_have_different_seeds(first: list, second: list) -> None:
    assert (seed_for(0, *first) == seed_for(0, *second)) == (first == second)
    assert 0 <= seed_for(0, *first) < 2**63


def test_a_number_is_not_its_digits_and_neighbours_do_not_run_together() -> None:
    keys = [(1,), ("1",), ("a", "b"), ("ab",), ("a, b",), ("a", 1, 2), ("a", 12), (1, 2), (2, 1)]
    assert len({seed_for(0, *key) for key in keys}) == len(keys)
    assert seed_for(0, "x") != seed_for(1, "x")


def test_numpy_and_pandas_scalars_are_the_same_key_as_python_s() -> None:
    """Keys come out of tables: prompt ids and image ids of a NumPy type must give what the Python values
    give.
    """
    assert seed_for(np.int64(3), np.str_("p1"), np.int32(4)) == seed_for(3, "p1", 4)


def test_streams_of_neighbouring_items_are_unrelated() -> None:
    """Pearson's r of two independent streams of 4000 numbers has a standard deviation of 1 / sqrt(4000) =
    0.016; 0.08 is five of them.
    """
    streams = [generator_for(0, "item", i).random(4000) for i in range(4)]
    for first, second in itertools.combinations(streams, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.08
    assert np.array_equal(streams[2], generator_for(0, "item", 2).random(4000))
