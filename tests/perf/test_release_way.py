"""perf/release_way.py: the release's way of computing gives what ours gives, so that the two can be timed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaifv_kedro.branching import PackedBatch, branch_log_probs, collate, next_token_probs, pack
from rlaifv_kedro.branching.drawing import SamplingSettings

PERF = Path(__file__).parents[2] / "perf"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The modules of perf/, which import each other by their plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PERF)
        import release_way
        import shapes

        yield release_way, shapes


@pytest.fixture(scope="module")
def case(scripts: Any) -> tuple[Any, PackedBatch, torch.Tensor]:
    """A model, two prompts with two and three branches of unequal lengths, and their pixels."""
    _, shapes = scripts
    shape = shapes.SHAPES["smallest"]
    model = shapes.build(shape, 64, "cpu")
    texts, other = shapes.Texts(shape, 64, "cpu"), shapes.Texts(shape, 64, "cpu", 1)
    packs = [
        pack(texts.prompt(9), [texts.text(5), texts.text(3)]),
        pack(texts.prompt(4), [texts.text(n) for n in (2, 7, 4)]),
    ]
    return model, collate(packs, texts.pad_id), torch.cat([texts.pixel_values, other.pixel_values])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_probabilities_after_questions(scripts: Any, case: Any, batch: int) -> None:
    model, packed, pixels = case
    expected = next_token_probs(model, packed, pixel_values=pixels)
    found = scripts[0].next_token_probs(model, packed, batch=batch, pixel_values=pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_log_probs_of_answers_and_their_gradients(scripts: Any, case: Any) -> None:
    """One by one as for reference log-probs, and as rows of one batch as in the DPO step."""
    model, packed, pixels = case
    ours = branch_log_probs(model, packed, pixel_values=pixels)
    learning = model.lm_head.weight
    expected = torch.autograd.grad(ours.sums[0] - ours.sums[-1], learning)[0]
    for way in (scripts[0].branch_log_probs, scripts[0].concatenated_log_probs):
        found = way(model, packed, pixel_values=pixels)
        torch.testing.assert_close(found.tokens, ours.tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.counts, ours.counts)
        gradient = torch.autograd.grad(found.sums[0] - found.sums[-1], learning)[0]
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_samples_end_and_are_as_many_as_seeds(scripts: Any, case: Any) -> None:
    model, packed, pixels = case
    prompts = [p.prefix for p in packed.unpack()]
    settings = SamplingSettings(0.7, 6, pad=65, stop={7})
    drawn = scripts[0].sample_branches(
        model, prompts, [[1, 2, 3], [4, 5, 6]], settings, {"pixel_values": pixels}
    )
    assert [len(row) for row in drawn] == [3, 3]
    assert all(len(ids) == 6 or ids[-1] == 7 for row in drawn for ids in row)
    assert all(7 not in ids[:-1] for row in drawn for ids in row)
