"""Sampling: a candidate depends on its prompt and seed only, and follows the tempered softmax."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlaifv_kedro.branching.sampling import _pick, sample_branches
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.transformers_backend import TransformersModel

# Prompts of 44, 43 and 42 tokens.
QUESTIONS = ["describe the image in detail.", "name three objects in the image.", "is there a cup?"]


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu")


class Sampler:
    def __init__(self, loaded: TransformersModel, pictures: list[Image.Image]):
        self.model, self.encoder = loaded.module, loaded.encoder
        self.images = [self.encoder.image(p) for p in pictures]

    def __call__(self, rows: list[int], seeds: list[list[int]], temperature: float = 1.0, max_new_tokens: int = 16) -> list[list[list[int]]]:
        """Sample for (picture i, question i) of each row."""
        prompts = [self.prompt(i) for i in rows]
        pixels = torch.cat([self.images[i].inputs["pixel_values"] for i in rows])
        with torch.no_grad():
            return sample_branches(
                self.model, prompts, seeds, temperature=temperature, max_new_tokens=max_new_tokens, pad=self.encoder.pad_id,
                stop={self.encoder.tokenizer.eos_token_id}, inputs={"pixel_values": pixels},
            )  # fmt: skip

    def prompt(self, i: int) -> list[int]:
        return self.encoder.prompts([QUESTIONS[i]], self.images[i].tokens)[0]


@pytest.fixture(scope="module")
def sampler(loaded: TransformersModel, pictures: list[Image.Image]) -> Sampler:
    return Sampler(loaded, pictures)


def test_a_candidate_is_the_same_alone_in_a_batch_and_in_another_order(sampler: Sampler) -> None:
    seeds = [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    together = sampler([0, 1, 2], seeds)
    assert len({len(sampler.prompt(i)) for i in range(3)}) == 3  # so the batch was padded
    assert len({tuple(ids) for row in together for ids in row}) == 9  # the seeds matter
    backwards = sampler([2, 1, 0], [row[::-1] for row in seeds[::-1]])
    assert [row[::-1] for row in backwards[::-1]] == together
    assert [[sampler([i], [[s]])[0][0] for s in row] for i, row in enumerate(seeds)] == together


def test_every_token_is_drawn_by_its_own_uniform_number_of_the_seed(sampler: Sampler) -> None:
    """Token t lies where the tempered probabilities after the first t tokens, cumulated, pass the t-th number of ``default_rng(seed)``. Computed here
    without a cache and without padding; the prompt sampled is the shortest of a padded batch.
    """
    temperature, seed = 0.7, 42
    found = sampler([0, 2], [[1], [seed]], temperature, max_new_tokens=10)[1][0]
    assert len(set(found)) > 3
    for step, uniform in enumerate(np.random.default_rng(seed).random(10)[: len(found)]):
        ids = torch.tensor([sampler.prompt(2) + found[:step]])
        with torch.no_grad():
            logits = sampler.model(input_ids=ids, pixel_values=sampler.images[2].inputs["pixel_values"]).logits[0, -1]
        cumulated = (logits.double() / temperature).softmax(-1).cumsum(-1)
        assert found[step] == int((cumulated <= uniform).sum())


def test_a_longer_limit_goes_on_from_the_same_tokens(sampler: Sampler) -> None:
    short, long = sampler([0], [[1, 2]], max_new_tokens=5)[0], sampler([0], [[1, 2]], max_new_tokens=20)[0]
    assert [ids[:5] for ids in long] == short
    assert max(map(len, long)) > 5


def test_greedy_answers_are_generate_s(sampler: Sampler) -> None:
    """Against transformers' own greedy decoding, one prompt at a time; ours goes in one padded batch."""
    found = sampler([0, 1, 2], [[0]] * 3, temperature=0, max_new_tokens=12)
    for i in range(3):
        prompt = torch.tensor([sampler.prompt(i)])
        expected = sampler.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=sampler.images[i].inputs["pixel_values"], do_sample=False,
            max_new_tokens=12,
        )  # fmt: skip
        assert found[i][0] == expected[0, prompt.shape[1] :].tolist()


def test_samples_end_with_the_stop_token_or_at_the_limit(sampler: Sampler) -> None:
    stop = sampler.encoder.tokenizer.eos_token_id
    samples = sampler([0], [list(range(200))], temperature=2.0, max_new_tokens=12)[0]
    stopped = [ids for ids in samples if stop in ids]
    assert 0 < len(stopped) < len(samples)
    assert all(ids.index(stop) == len(ids) - 1 for ids in stopped)
    assert {len(ids) for ids in samples if stop not in ids} == {12}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_first_tokens_follow_the_tempered_softmax(sampler: Sampler, temperature: float) -> None:
    """2000 first tokens. Pearson's statistic over the cells with at least 5 expected (the rest pooled) has mean d and variance 2d for d degrees of
    freedom; d + 5 * sqrt(2d) is passed by chance about once in 10^5. At the wrong temperature it is far above.
    """
    count = 2000
    drawn = Counter(ids[0] for ids in sampler([0], [list(range(count))], temperature, max_new_tokens=1)[0])
    with torch.no_grad():
        logits = sampler.model(input_ids=torch.tensor([sampler.prompt(0)]), pixel_values=sampler.images[0].inputs["pixel_values"]).logits[0, -1]

    def statistic(at: float) -> tuple[float, int]:
        expected = (logits.double() / at).softmax(-1).numpy() * count
        observed = np.array([drawn[i] for i in range(len(expected))])
        large = expected >= 5
        cells = [*zip(observed[large], expected[large]), (observed[~large].sum(), expected[~large].sum())]
        return sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1

    value, freedom = statistic(temperature)
    assert freedom >= 5
    assert value < freedom + 5 * (2 * freedom) ** 0.5
    value, freedom = statistic(temperature * 1.3)
    assert value > freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 2), (0.69, 2), (0.71, 3), (1 - 2**-53, 3)])
def test_pick_inverts_the_cumulated_probabilities(uniform: float, token: int) -> None:
    """p = 0.2, 0, 0.5, 0.3: cumulated 0.2, 0.2, 0.7, 1. A token without probability is never drawn, the largest uniform stays inside."""
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()
    assert _pick(logits, 1.0, torch.tensor([uniform], dtype=torch.float64)).item() == token
