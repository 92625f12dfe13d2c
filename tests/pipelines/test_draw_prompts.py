"""Which prompts an iteration gets."""

import numpy as np
import pandas as pd
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import DataGenerationParams, LoopParams
from rlaifv_kedro.pipelines.data_generation.nodes import draw_prompts
from rlaifv_kedro.seeds import seed_for


def pool_of(size: int) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [f"p{i}" for i in range(size)]})


def drawn_in_turn(pools: list[pd.DataFrame], prompts: int, seed: int = 7) -> list[list[str]]:
    """What each iteration draws, from the pool as it is then."""
    params, loop, drawn, rounds = DataGenerationParams(prompts=prompts), LoopParams(iterations=1), None, []
    for iteration, pool in enumerate(pools, start=1):
        own, drawn = draw_prompts(pool, iteration, seed, params, loop, drawn)
        rounds.append(own["prompt_id"].tolist())
    assert drawn["prompt_id"].tolist() == sum(rounds, [])
    return rounds


def test_four_iterations_of_4000_draw_all_of_16000_prompts_once() -> None:
    rounds = drawn_in_turn([pool_of(16_000)] * 4, 4000)
    assert [len(ids) for ids in rounds] == [4000] * 4
    assert len(set(sum(rounds, []))) == 16_000
    assert 850 < sum(int(prompt[1:]) < 4000 for prompt in rounds[0]) < 1150  # not one source's


def test_prompts_come_in_the_order_of_their_own_numbers() -> None:
    (first,) = drawn_in_turn([pool_of(50)], 10, seed=3)
    numbers = {f"p{i}": seed_for(3, "prompt pool", f"p{i}") for i in range(50)}
    assert first == sorted(numbers, key=numbers.get)[:10]


def test_the_order_of_the_pool_changes_nothing() -> None:
    pool = pool_of(2000)
    shuffled = pool.iloc[np.random.default_rng(0).permutation(2000)]
    assert drawn_in_turn([pool] * 3, 500) == drawn_in_turn([pool, shuffled, pool], 500)


def test_a_pool_that_grows_repeats_no_prompt() -> None:
    rounds = drawn_in_turn([pool_of(16_000), pool_of(20_000), pool_of(24_000)], 4000)
    assert len(set(sum(rounds, []))) == 12_000
    # Prompts that the pool had before come in the same order among themselves.
    numbers = [seed_for(7, "prompt pool", prompt) for prompt in rounds[1]]
    assert numbers == sorted(numbers)


def test_too_few_prompts_that_are_left_are_refused() -> None:
    """20 are enough for two iterations of 10, but the first had 15."""
    loop = LoopParams(iterations=1)
    _, drawn = draw_prompts(pool_of(20), 1, 0, DataGenerationParams(prompts=15), loop)
    with pytest.raises(UserError, match="prompt_pool has 5 prompts that no .* iteration 2 needs .*=10"):
        draw_prompts(pool_of(20), 2, 0, DataGenerationParams(prompts=10), loop, drawn)
