"""Sliding windows: packed while no sequence is longer than the window, however long the pack or the cache;
beyond it, a prefix's state is copied.
"""

import pytest
import torch
from torch.testing import assert_close

from rlaifv_kedro.branching import branch_log_probs, choose_way, collate, next_token_probs, sampling, scoring
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches
from tiny_families import by_hand, by_hand_log_probs, by_hand_next, mistral, text_packs


@pytest.fixture
def went_otherwise(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions for what isn't packed that were called."""
    called: list[str] = []

    def spy_on(name: str) -> None:
        original = getattr(scoring, name)
        monkeypatch.setattr(
            scoring, name, lambda *args, **kwargs: called.append(name) or original(*args, **kwargs)
        )

    for way in ("copied", "separate"):
        spy_on(f"{way}_log_probs")
        spy_on(f"{way}_next_logits")
    return called


@pytest.mark.parametrize(
    ("window", "beyond"),
    [
        (19, True),
        (20, False),
        (21, False),
        (10, True),
        (10**6, False),
    ],  # the longest sequence has 20 tokens; 10 is shorter than the trial's too
)
@pytest.mark.parametrize("budget", [None, 6])
def test_a_sliding_window(window: int, beyond: bool, budget: int | None, went_otherwise: list[str]) -> None:
    """Packed while no sequence is longer than the window, however long the pack (36 tokens)."""
    model, packs = mistral(window), text_packs(longest=20)
    packed = collate(packs, pad=0)
    choose_way(model)
    went_otherwise.clear()
    with torch.no_grad():
        found = branch_log_probs(model, packed, max_tokens_per_pack=budget).tokens
        assert_close(found, by_hand_log_probs(model, None, packs), atol=1e-8, rtol=0)
        expected = by_hand_next(model, None, packs)
        assert (
            (expected - by_hand_next(mistral(None), None, packs)).abs().max() > 1e-3
        ) == beyond  # the window matters where it cuts
        assert_close(
            next_token_probs(model, packed, list(range(64)), max_tokens_per_pack=budget),
            expected,
            atol=1e-8,
            rtol=0,
        )
    assert went_otherwise == (["copied_log_probs", "copied_next_logits"] if beyond else [])


@pytest.mark.parametrize("broken", [False, True], ids=["", "window forgotten"])
def test_a_cache_that_forgets_its_window_is_found(
    broken: bool, went_otherwise: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that keeps two tokens less than the window needs: within the window nothing shows, so the trial
    is made with the first prefix beyond it. The log says why, once.
    """
    from transformers.cache_utils import DynamicSlidingWindowLayer

    model, packed = mistral(18), collate(text_packs(longest=20), pad=0)
    assert choose_way(model) == "packed"
    update = DynamicSlidingWindowLayer.update

    def forgetful(layer: DynamicSlidingWindowLayer, *args: object) -> object:
        layer.keys, layer.values = layer.keys * 1, layer.values * 1
        layer.keys[:, :, :2] = 0
        return update(layer, *args)

    if broken:
        monkeypatch.setattr(
            DynamicSlidingWindowLayer,
            "update",
            lambda layer, *args: forgetful(layer, *args) if layer.is_initialized else update(layer, *args),
        )
    with torch.no_grad():
        for _ in range(2):
            found = branch_log_probs(model, packed).tokens
            assert_close(found, by_hand_log_probs(model, None, packed.unpack()), atol=1e-8, rtol=0)
    assert went_otherwise == ["separate_log_probs" if broken else "copied_log_probs"] * 2
    assert caplog.text.count("can't be copied") == broken


def test_samples_beyond_a_sliding_window() -> None:
    """Prompts of 11, 4 and 10 tokens, 12 new ones and a window of 18: against the argmax after one plain
    sequence at a time.
    """
    model, prompts = mistral(18), [p.prefix for p in text_packs()]
    assert choose_way(model) == "packed"
    settings = SamplingSettings(temperature=0, max_new_tokens=12, pad=0, stop=set())
    found = sample_branches(model, prompts, [[1]] * 3, settings, inputs={})
    beyond_matters = False
    for prompt, (answer,) in zip(prompts, found):
        assert len(answer) == 12
        for t, token in enumerate(answer):
            with torch.no_grad():
                assert token == by_hand(model, None, prompt, answer[:t], {})[-1].argmax()
                beyond_matters |= bool(
                    token != by_hand(mistral(None), None, prompt, answer[:t], {})[-1].argmax()
                )
    assert beyond_matters


@pytest.mark.parametrize(("window", "copies"), [(23, False), (22, True)])
def test_samples_use_one_cache_up_to_the_window(
    window: int, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 11 tokens with 12 new ones. A cache that every sample adds to grows beyond 23, but no
    sample does.
    """
    model, prompt = mistral(window), text_packs()[0].prefix
    choose_way(model)
    called = []
    original = sampling._SAMPLERS["copied"]
    monkeypatch.setitem(sampling._SAMPLERS, "copied", lambda *args: called.append(1) or original(*args))
    seeds = [[4, 5, 6, 7]]
    settings = SamplingSettings(temperature=1.0, max_new_tokens=12, pad=0, stop=set())
    found = sample_branches(model, [prompt], seeds, settings, inputs={})
    assert bool(called) == copies
    assert found == sample_branches(mistral(None), [prompt], seeds, settings, inputs={})
