"""The slow way: images taken apart for each branch, and what has no tokens."""

import pytest
import torch
from torch.testing import assert_close

from rlaifv_kedro.branching import Pack, branch_log_probs, collate, next_token_probs, separate
from rlaifv_kedro.branching.separate import images_of_packs
from rlaifv_kedro.errors import UserError
from tiny_families import FAMILIES, by_hand_log_probs, by_hand_next, drawn, llama


def test_images_of_packs() -> None:
    """Two images of 2 x 4 and 2 x 2 patches, by grids; rows that are one a pack; and what can't be told
    apart.
    """
    patches, grids = torch.arange(12)[:, None], torch.tensor([[1, 2, 4], [1, 2, 2]])
    first, second = images_of_packs({"pixel_values": patches, "image_grid_thw": grids}, 2)
    assert first["pixel_values"].flatten().tolist() == list(range(8)) and second[
        "pixel_values"
    ].flatten().tolist() == [8, 9, 10, 11]
    assert first["image_grid_thw"].tolist() == [[1, 2, 4]] and second["image_grid_thw"].tolist() == [
        [1, 2, 2]
    ]
    assert [
        i["pixel_values"].tolist() for i in images_of_packs({"pixel_values": torch.tensor([[1], [2]])}, 2)
    ] == [[[1]], [[2]]]
    assert images_of_packs({"pixel_values": patches}, 1)[0]["pixel_values"] is patches
    with pytest.raises(UserError, match=r"pixel_values \(12, 1\)"):
        images_of_packs({"pixel_values": patches}, 2)


def test_the_separate_way_with_images_in_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's patches of all images in one tensor, taken apart for each branch; also over several
    forward passes.
    """
    family = FAMILIES["qwen2.5-vl"]
    model, (packs, images) = drawn(family.build()), family.packs()
    model._branching_way = "separate"
    inputs = {name: torch.cat([i[name] for i in images]) for name in images[0]}
    with torch.no_grad():
        expected = by_hand_log_probs(model, family, packs, images)
        for budget in (8192, 40, 1):
            monkeypatch.setattr(separate, "TOKENS_A_PASS", budget)
            assert_close(
                branch_log_probs(model, collate(packs, pad=0), **inputs).tokens, expected, atol=1e-8, rtol=0
            )
            probs = next_token_probs(model, collate(packs, pad=0), [5, 17], **inputs)
            assert_close(probs, by_hand_next(model, family, packs, images)[:, [5, 17]], atol=1e-8, rtol=0)


def test_with_gradients_it_takes_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 processes wait for each other in every pass: a number of passes that depends on the
    pairs' lengths would stop them for ever.
    """
    model = llama()
    model._branching_way = "separate"
    monkeypatch.setattr(separate, "TOKENS_A_PASS", 1)
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    branch_log_probs(model, collate([Pack([5, 6, 7], [[8], [9, 10]])], pad=0)).sums.sum().backward()
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("way", "budget"), [("packed", None), ("packed", 1), ("copied", None), ("copied", 1), ("separate", None)]
)
@pytest.mark.parametrize("lengths", [[[0, 3], [2]], [[], [2]], [[0], [0]], [[]]], ids=str)
@torch.no_grad()
def test_empty_branches_and_packs_without_branches(
    way: str, budget: int | None, lengths: list[list[int]]
) -> None:
    model = llama()
    model._branching_way = way
    packs = [Pack([5, 6, 7 + i], [[8 + n] * n for n in row]) for i, row in enumerate(lengths)]
    found = branch_log_probs(model, collate(packs, pad=0), max_tokens_per_pack=budget)
    assert found.counts.tolist() == [n for row in lengths for n in row]
    assert found.sums.shape == found.counts.shape
    filled = [Pack(p.prefix, [b for b in p.branches if b]) for p in packs]
    if any(p.branches for p in filled):
        assert_close(found.tokens, by_hand_log_probs(model, None, filled), atol=1e-8, rtol=0)
    assert all(s == 0 for s, n in zip(found.sums.tolist(), found.counts.tolist()) if n == 0)
    if not any(0 in row for row in lengths):
        assert next_token_probs(model, collate(packs, pad=0), [5, 6], max_tokens_per_pack=budget).shape == (
            len(found.counts),
            2,
        )
