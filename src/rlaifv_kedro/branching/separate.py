"""The slow way: every branch as a sequence of its own, with its prefix and image computed again.

Masks and positions are the model's own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from rlaifv_kedro.branching.drawing import TokenChooser
from rlaifv_kedro.branching.family import type_ids
from rlaifv_kedro.branching.forward import BranchLogProbs, forward
from rlaifv_kedro.branching.pack import TOKENS_A_PASS, PackedBatch, within_budget
from rlaifv_kedro.errors import UserError


def separate_log_probs(model: torch.nn.Module, packed: PackedBatch, **inputs: Any) -> BranchLogProbs:
    """:func:`rlaifv_kedro.branching.branch_log_probs` of a model that can't be packed."""
    found = []
    for ids, mask, segments, images in _batches(packed, inputs):
        # (rows, length): the branches' tokens; each is predicted from the position before it.
        wanted = segments > 0
        keep = torch.cat([wanted[:, 1:], torch.zeros_like(wanted[:, :1])], dim=1)
        types = type_ids(model, ids, segments)
        logits = forward(model, ids, mask, None, keep, None, use_cache=False, **types, **images)
        found.append(logits.gather(-1, ids[wanted][:, None]).squeeze(-1) - logits.logsumexp(-1))
    return BranchLogProbs.of_tokens(torch.cat(found), packed)


def separate_next_logits(model: torch.nn.Module, packed: PackedBatch, **inputs: Any) -> torch.Tensor:
    """Logits after the end of every branch, (branches, vocabulary), of a model that can't be packed.

    Branches are part of the prompt here.
    """
    found = []
    for ids, mask, segments, images in _batches(packed, inputs):
        keep = torch.zeros_like(segments, dtype=torch.bool)
        keep[torch.arange(len(ids)), mask.sum(1) - 1] = True
        types = type_ids(model, ids, segments.clamp(max=0))
        found.append(forward(model, ids, mask, None, keep, None, use_cache=False, **types, **images))
    return torch.cat(found)


def _batches(
    packed: PackedBatch, inputs: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Sequences padded on the right: ids, mask, segments, each (rows, length), and their images.

    Segments are 0 for the prefix, 1 for the branch and -1 for padding.
    """
    rows = [(i, p.prefix, branch) for i, p in enumerate(packed.unpack()) for branch in p.branches]
    images = images_of_packs(inputs, len(packed.prefix_lengths))
    lengths = [len(prefix) + len(branch) for _, prefix, branch in rows]
    # With gradients all activations are kept anyway, and processes that share a model's weights (ZeRO-3) must
    # take as many passes as each other.
    for group in within_budget(lengths, sum(lengths) if torch.is_grad_enabled() else TOKENS_A_PASS):
        part = [rows[i] for i in group]
        length = max(len(prefix) + len(branch) for _, prefix, branch in part)
        ids = torch.zeros(len(part), length, dtype=torch.int64)
        segments = torch.full((len(part), length), -1)
        for row, (_, prefix, branch) in enumerate(part):
            ids[row, : len(prefix) + len(branch)] = torch.tensor(prefix + branch)
            segments[row, : len(prefix)] = 0
            segments[row, len(prefix) : len(prefix) + len(branch)] = 1
        ids, segments = ids.to(packed.input_ids.device), segments.to(packed.input_ids.device)
        repeated = joined_images([images[i] for i, _, _ in part])
        yield ids, (segments >= 0).long(), segments, repeated


def sample_by_length(
    ids: torch.Tensor,
    real: torch.Tensor,
    choose: TokenChooser,
    inputs: dict[str, torch.Tensor],
    sample: Callable[[torch.Tensor, TokenChooser, list[dict[str, torch.Tensor]]], torch.Tensor],
) -> torch.Tensor:
    """Tokens of all samples of all prompts: int64 (prompts, samples, steps).

    Prompts of one length go together, since not every family gets padding right.

    Args:
        ids: int64 (prompts, length), padded on the left.
        real: bool (prompts, length), False at padding.
        sample: Draws from prompts of one length with their images: int64 (prompts, samples, at most steps).
    """
    images, lengths = images_of_packs(inputs, len(ids)), real.sum(-1).tolist()
    settings = choose.settings
    drawn = ids.new_full((len(ids), choose.samples, settings.max_new_tokens), settings.pad)
    for length in set(lengths):
        rows = [i for i, n in enumerate(lengths) if n == length]
        part = sample(ids[rows, ids.shape[1] - length :], choose.of_rows(rows), [images[i] for i in rows])
        drawn[rows, :, : part.shape[-1]] = part
    return drawn


def images_of_packs(inputs: dict[str, torch.Tensor], packs: int) -> list[dict[str, torch.Tensor]]:
    """The image inputs of each pack, one image a pack.

    Raises:
        UserError: It can't be told which rows belong to which image.
    """
    if packs == 1:
        return [inputs]
    if "target_sizes" in inputs and len(inputs["target_sizes"]) == packs:
        return _without_padding(inputs)
    # Rows of each image, in families that concatenate all images' patches (Qwen-VL) or slices (MiniCPM-V).
    patches: list[int] = []
    if "image_grid_thw" in inputs:
        patches = inputs["image_grid_thw"].prod(-1).tolist()
    elif "slice_counts" in inputs:
        patches = inputs["slice_counts"].tolist()
    split: dict[str, tuple[torch.Tensor, ...]] = {}
    for name, value in inputs.items():
        counts = name in ("image_grid_thw", "slice_counts")
        if not counts and len(patches) == packs and len(value) == sum(patches):
            split[name] = value.split(patches)
        elif len(value) == packs:
            split[name] = value.split(1)
        else:
            raise UserError(
                f"can't tell which rows of {name} {tuple(value.shape)} belong to which of {packs} images; "
                "use a batch size of 1."
            )
    return [{name: parts[i] for name, parts in split.items()} for i in range(packs)]


def _without_padding(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Of MiniCPM-V 4.6 and 4.7: an image's patches side by side, (1, 3, patch size, patches x patch size)."""
    pixels, sizes = inputs["pixel_values"], inputs["target_sizes"]
    columns = (sizes.prod(-1) * pixels.shape[2]).tolist()
    return [
        {"pixel_values": pixels[i : i + 1, ..., :width], "target_sizes": sizes[i : i + 1]}
        for i, width in enumerate(columns)
    ]


def joined_images(images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The image inputs of several rows, each with its own, as a model takes them together."""
    side_by_side = "target_sizes" in images[0]  # see _without_padding
    return {
        name: torch.cat(
            [image[name] for image in images], dim=-1 if side_by_side and name == "pixel_values" else 0
        )
        for name in images[0]
    }
