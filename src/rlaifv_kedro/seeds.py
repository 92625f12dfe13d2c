"""Random numbers that depend on (run seed, key of the item) and on nothing else.

The original release seeds one global generator, so an answer depends on batch size, order and how often the
run was restarted. Here every item draws from a stream of its own: a re-run, another batch size or a resumed
run gives the same draws.
"""

import hashlib

import numpy as np


def seed_for(seed: int, *key: str | int) -> int:
    """A 63-bit seed for one item.

    Args:
        seed: The run's seed.
        key: What names the item, e.g. ``("candidates", prompt_id, 3)``. ``1`` and ``"1"`` are different keys.
    """
    text = repr((int(seed), *(str(k) if isinstance(k, str) else int(k) for k in key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *key: str | int) -> np.random.Generator:
    """A NumPy generator for one item; see :func:`seed_for`."""
    return np.random.default_rng(seed_for(seed, *key))
