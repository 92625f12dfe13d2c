"""Sampling: a candidate depends on its prompt and seed only, and follows the tempered softmax."""

from collections import Counter
from collections.abc import Sequence
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig, RepetitionPenaltyLogitsProcessor

from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel

# Prompts of 44, 43 and 42 tokens.
QUESTIONS = ["describe the image in detail.", "name three objects in the image.", "is there a cup?"]


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu")


class Sampler:
    def __init__(self, loaded: TransformersModel, pictures: list[Image.Image]):
        self.model, self.encoder = loaded.module, loaded.encoder
        self.images = [self.encoder.image(p) for p in pictures]

    def __call__(
        self,
        rows: list[int],
        seeds: list[list[int]],
        temperature: float = 1.0,
        max_new_tokens: int = 16,
        stop: set[int] | None = None,
        suppress: Sequence[int] = (),
    ) -> list[list[list[int]]]:
        """Sample for (picture i, question i) of each row."""
        prompts = [self.prompt(i) for i in rows]
        pixels = torch.cat([self.images[i].inputs["pixel_values"] for i in rows])
        with torch.no_grad():
            return sample_branches(
                self.model,
                prompts,
                seeds,
                SamplingSettings(
                    temperature=temperature,
                    max_new_tokens=max_new_tokens,
                    pad=self.encoder.pad_id,
                    stop={self.encoder.tokenizer.eos_token_id} if stop is None else stop,
                    suppress=suppress,
                ),
                inputs={"pixel_values": pixels},
            )

    def prompt(self, i: int) -> list[int]:
        return self.encoder.prompts([QUESTIONS[i]], self.images[i])[0]


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
    """Token t lies where the tempered probabilities after the first t tokens, cumulated, pass the t-th number
    of ``default_rng(seed)``. Computed here without a cache and without padding; the prompt sampled is the
    shortest of a padded batch.
    """
    temperature, seed = 0.7, 42
    found = sampler([0, 2], [[1], [seed]], temperature, max_new_tokens=10)[1][0]
    assert len(set(found)) > 3
    for step, uniform in enumerate(np.random.default_rng(seed).random(10)[: len(found)]):
        ids = torch.tensor([sampler.prompt(2) + found[:step]])
        with torch.no_grad():
            logits = sampler.model(
                input_ids=ids, pixel_values=sampler.images[2].inputs["pixel_values"]
            ).logits[0, -1]
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
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=sampler.images[i].inputs["pixel_values"],
            do_sample=False,
            max_new_tokens=12,
        )
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
    """2000 first tokens. Pearson's statistic over the cells with at least 5 expected (the rest pooled) has
    mean d and variance 2d for d degrees of freedom; d + 5 * sqrt(2d) is passed by chance about once in 10^5.
    At the wrong temperature it is far above.
    """
    count = 2000
    drawn = Counter(ids[0] for ids in sampler([0], [list(range(count))], temperature, max_new_tokens=1)[0])
    with torch.no_grad():
        logits = sampler.model(
            input_ids=torch.tensor([sampler.prompt(0)]), pixel_values=sampler.images[0].inputs["pixel_values"]
        ).logits[0, -1]

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


@pytest.fixture(params=["packed", "separate"])
def either(sampler: Sampler, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """The model made to go either way."""
    monkeypatch.setattr(sampler.model, "_branching_way", request.param)
    return sampler


SEEDS = [[10, 11, 12], [20, 21, 22], [30, 31, 32]]


def test_both_ways_draw_the_same(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = set(range(0, 400, 9))  # so some end before others
    packed = sampler([0, 1, 2], SEEDS, stop=stop)
    monkeypatch.setattr(sampler.model, "_branching_way", "separate")
    assert sampler([0, 1, 2], SEEDS, stop=stop) == packed
    assert len({len(ids) for row in packed for ids in row}) > 2


def test_answers_that_end_early_do_not_disturb_the_others(either: Sampler) -> None:
    """The same tokens, up to the first that stops, as where nothing stops. Here every third id stops, so
    answers end at many different steps.
    """
    seeds = [list(range(10 * i, 10 * i + 10)) for i in range(3)]
    stop = set(range(0, 400, 3))
    endless = either([0, 1, 2], seeds, stop=set(), max_new_tokens=12)
    assert {len(ids) for row in endless for ids in row} == {12}
    found = either([0, 1, 2], seeds, stop=stop, max_new_tokens=12)
    assert len({len(ids) for row in found for ids in row}) > 3
    for short, long in zip((ids for row in found for ids in row), (ids for row in endless for ids in row)):
        end = next((i + 1 for i, token in enumerate(long) if token in stop), 12)
        assert short == long[:end]


@pytest.mark.parametrize(
    "stop", [set(range(400)), set(range(0, 400, 3)), set()], ids=["at once", "early", "never"]
)
def test_nothing_is_computed_after_the_last_answer_ends(
    either: Sampler, stop: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass for every token of the longest answer: the prompt's gives the first."""
    passes = []
    original = either.model.forward

    @wraps(original)
    def forward(*args: object, **kwargs: object) -> object:
        passes.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(either.model, "forward", forward)
    (found,) = either([0], [[10, 11, 12]], stop=stop, max_new_tokens=12)
    assert len(passes) == max(map(len, found))


def test_only_the_given_tokens_stop(either: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the checkpoint's generation settings say, which are for ``generate``: other stop tokens,
    penalties, beams, a top-k.
    """
    expected = either([0, 1], SEEDS[:2], max_new_tokens=6)
    third = expected[0][0][2]
    settings = GenerationConfig(
        eos_token_id=[third, expected[1][1][3]],
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_new_tokens=6,
        suppress_tokens=[third],
        temperature=0.1,
        top_k=1,
        do_sample=True,
    )
    monkeypatch.setattr(either.model, "generation_config", settings)
    assert either([0, 1], SEEDS[:2], max_new_tokens=6) == expected
    assert len(either([0], [[10]], max_new_tokens=6, stop=set())[0][0]) == 6
    assert either.model.generation_config is settings


def test_one_token_and_one_sample(either: Sampler) -> None:
    many = either([0, 1, 2], SEEDS, max_new_tokens=4)
    assert either([0, 1, 2], SEEDS, max_new_tokens=1) == [[ids[:1] for ids in row] for row in many]
    assert either([0, 1, 2], [row[:1] for row in SEEDS], max_new_tokens=4) == [row[:1] for row in many]
    assert either([2], [[30]], max_new_tokens=1) == [[many[2][0][:1]]]


def test_suppressed_tokens_are_never_drawn(either: Sampler) -> None:
    """The first token of 100 samples, those ids aside; each is where the remaining probabilities, made to
    add up to 1, pass its uniform number.
    """
    seeds = list(range(100))
    drawn = Counter(ids[0] for ids in either([0], [seeds], max_new_tokens=1)[0])
    suppress = [token for token, _ in drawn.most_common(3)]
    found = either([0], [seeds], max_new_tokens=6, suppress=suppress)[0]
    assert not {token for ids in found for token in ids} & set(suppress)
    with torch.no_grad():
        logits = either.model(
            input_ids=torch.tensor([either.prompt(0)]), pixel_values=either.images[0].inputs["pixel_values"]
        ).logits[0, -1]
    probs = logits.double().softmax(-1)
    probs[suppress] = 0
    cumulated = probs.cumsum(-1) / probs.sum()
    assert [ids[0] for ids in found] == [
        int((cumulated <= np.random.default_rng(s).random()).sum()) for s in seeds
    ]
    greedy = either([0], [[0]], temperature=0, max_new_tokens=1, suppress=[int(logits.argmax())])[0][0]
    assert greedy == [int(logits.topk(2).indices[1])]


def test_samples_stay_in_the_nucleus(either: Sampler) -> None:
    """First tokens of 200 samples by hand; greedy answers and ``top_p`` 1 are as without it."""

    def sample(seeds: list[int], temperature: float, **options: float) -> list[list[int]]:
        return sample_branches(
            either.model,
            [either.prompt(0)],
            [seeds],
            SamplingSettings(temperature, 6, pad=either.encoder.pad_id, stop=set(), **options),
            inputs={"pixel_values": either.images[0].inputs["pixel_values"]},
        )[0]

    seeds = list(range(200))
    plain, within = sample(seeds, 2.0), sample(seeds, 2.0, top_p=0.5)
    with torch.no_grad():
        logits = either.model(
            input_ids=torch.tensor([either.prompt(0)]), pixel_values=either.images[0].inputs["pixel_values"]
        ).logits[0, -1]
    falling = (logits.double() / 2).softmax(-1).sort(descending=True)
    nucleus = falling.indices[: int((falling.values.cumsum(0) < 0.5).sum()) + 1].tolist()
    assert 1 < len(nucleus) < len({ids[0] for ids in plain})
    assert {ids[0] for ids in within} == set(nucleus)
    assert sample(seeds, 2.0, top_p=1.0) == plain != within
    assert sample([0], 0, top_p=0.1) == sample([0], 0)


def test_generate_s_top_k_and_repetition_penalty(either: Sampler) -> None:
    """Greedy answers with a penalty are those of ``generate``, whose penalty is told to leave the prompt out.
    With top-k 1 a sample is the greedy answer. What a sample is doesn't depend on its neighbours.
    """

    def sample(rows: list[int], seeds: list[list[int]], **options: float) -> list[list[list[int]]]:
        pixels = torch.cat([either.images[i].inputs["pixel_values"] for i in rows])
        options = {"temperature": 1.0, "max_new_tokens": 12, **options}
        drawing = SamplingSettings(**options, pad=either.encoder.pad_id, stop=set())
        prompts = [either.prompt(i) for i in rows]
        return sample_branches(either.model, prompts, seeds, drawing, {"pixel_values": pixels})

    greedy = sample([0, 1, 2], [[0]] * 3, temperature=0, repetition_penalty=1.7)
    for i in range(3):
        prompt = torch.tensor([either.prompt(i)])
        size = prompt.shape[1]
        expected = either.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=either.images[i].inputs["pixel_values"],
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=12, pad_token_id=0),
            logits_processor=[RepetitionPenaltyLogitsProcessor(1.7, prompt_ignore_length=size)],
        )
        assert greedy[i][0] == expected[0, size:].tolist()
    assert greedy != sample([0, 1, 2], [[0]] * 3, temperature=0)
    assert sample([0, 1, 2], SEEDS, top_k=1) == [
        row * 3 for row in sample([0, 1, 2], [[0]] * 3, temperature=0)
    ]

    both = {"top_k": 20, "repetition_penalty": 1.3}
    together = sample([0, 1, 2], SEEDS, **both)
    assert [[sample([i], [[s]], **both)[0][0] for s in row] for i, row in enumerate(SEEDS)] == together
    assert together != sample([0, 1, 2], SEEDS, top_k=20) != sample([0, 1, 2], SEEDS)
