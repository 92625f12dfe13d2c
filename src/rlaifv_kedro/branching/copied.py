"""The third way: a prefix is computed once, and its state is copied to its branches, each a row of its own.

For models that can't be packed, such as those with recurrent layers, whose state a mask can't divide between
branches. Without gradients. The state is what transformers' own cache keeps of the prefix, layer by layer:
keys and values, a window's last ones, or a recurrent state. Masks are the model's own.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rlaifv_kedro.branching.drawing import TokenChooser, draw
from rlaifv_kedro.branching.family import rope_index, spatial_positions, type_ids, unwrapped
from rlaifv_kedro.branching.forward import BranchLogProbs, forward
from rlaifv_kedro.branching.pack import TOKENS_A_PASS, Pack, PackedBatch, within_budget
from rlaifv_kedro.branching.separate import images_of_packs, joined_images


@dataclass
class State:
    """What a model keeps of rows of one length without padding, for more tokens to follow.

    Attributes:
        cache: Of transformers, with one layer for each of the model's.
        length: Tokens of each row so far.
        offset: By how much the positions of what follows differ from their index (M-RoPE), int64 (rows, 1);
            None where the model computes positions itself, from the cache's length.
        spatial: Positions have three parts: time, height and width.
    """

    cache: Any
    length: int
    offset: torch.Tensor | None
    spatial: bool

    @classmethod
    def of_prefixes(
        cls, model: torch.nn.Module, ids: torch.Tensor, inputs: dict[str, Any]
    ) -> "tuple[State, torch.Tensor]":
        """The state after prefixes, and the logits at their ends, (rows, vocabulary).

        Args:
            ids: int64 (rows, length), without padding.
            inputs: Images of the rows.

        Raises:
            RuntimeError: The model has kept nothing.
        """
        from transformers import DynamicCache

        rows, length = ids.shape
        cache = DynamicCache(config=unwrapped(model).config)
        positions = offset = None
        if rope_index(unwrapped(model)) is not None:
            # Given, also for a text: the model would add the offset of the image that it saw last.
            plain = torch.arange(length, device=ids.device).expand_as(ids), ids.new_zeros(rows, 1)
            positions, offset = spatial_positions(model, ids, torch.ones_like(ids).bool(), inputs) or plain
        types = type_ids(model, ids, torch.zeros_like(ids))
        last = ids.new_full((rows, 1), length - 1)
        over = {"past_key_values": cache, "use_cache": True, **types, **inputs}
        ends = forward(model, ids, None, positions, last, None, **over)[:, 0]
        if cache.get_seq_length() != length:
            raise RuntimeError(
                f"of a prefix of {length} tokens the model's cache has {cache.get_seq_length()}"
            )
        return cls(cache, length, offset, positions is not None and positions.dim() == 3), ends

    def copied(self, rows: torch.Tensor) -> "State":
        """A state whose i-th row is a copy of this one's row ``rows[i]``."""
        cache = copy.deepcopy(self.cache)
        cache.reorder_cache(rows)
        return State(cache, self.length, None if self.offset is None else self.offset[rows], self.spatial)

    def follow(self, model: torch.nn.Module, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Logits at kept positions of the tokens that follow each row.

        Args:
            ids: int64 (rows, tokens). Where they are padded on the right, nothing may follow any more:
                recurrent layers have taken the padding in.
            keep: bool (rows, tokens), or int64 (rows, kept).

        Returns:
            (kept, vocabulary), or (rows, kept, vocabulary).
        """
        positions = None
        if self.offset is not None:
            after = torch.arange(self.length, self.length + ids.shape[1], device=ids.device)
            positions = after + self.offset  # (rows, tokens)
            positions = positions.expand(3, -1, -1) if self.spatial else positions
        self.length += ids.shape[1]
        over = {"past_key_values": self.cache, "use_cache": True}
        return forward(model, ids, None, positions, keep, None, **over)

    def next_logits(self, model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Logits after the tokens that follow each row, (rows, vocabulary)."""
        return self.follow(model, ids, ids.new_full((len(ids), 1), ids.shape[1] - 1))[:, 0]


@torch.no_grad()
def copied_log_probs(
    model: torch.nn.Module, packed: PackedBatch, budget: int | None, **inputs: Any
) -> BranchLogProbs:
    """The log-probs of :func:`rlaifv_kedro.branching.branch_log_probs`.

    Args:
        budget: Most tokens that are held at once, of branches with a copy of their prefix each; None for
            ``TOKENS_A_PASS``.
    """
    found: list[torch.Tensor] = []
    for pack, state, ends in _prefixes(model, packed, inputs):
        first = ends[0].log_softmax(-1)  # (vocabulary,): a branch's first token is predicted from here
        of_pack = [first[branch[:1]] for branch in pack.branches]
        for group, ids, real in _groups(pack, budget, first.device):
            keep = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
            if not keep.any():
                continue  # no branch has a second token
            logits = state.copied(ids.new_zeros(len(group))).follow(model, ids, keep)
            chosen = logits.gather(-1, ids[:, 1:][real[:, 1:]][:, None]).squeeze(-1)
            later = (chosen - logits.logsumexp(-1)).split(keep.sum(-1).tolist())
            for number, tokens in zip(group, later):
                of_pack[number] = torch.cat([of_pack[number], tokens])
        found += of_pack
    return BranchLogProbs.of_tokens(torch.cat(found), packed)


@torch.no_grad()
def copied_next_logits(
    model: torch.nn.Module, packed: PackedBatch, budget: int | None, **inputs: Any
) -> torch.Tensor:
    """Logits after the end of every branch, (branches, vocabulary).

    Args:
        budget: As in :func:`copied_log_probs`.
    """
    found: list[torch.Tensor] = []
    for pack, state, _ in _prefixes(model, packed, inputs):
        of_pack: dict[int, torch.Tensor] = {}
        for group, ids, real in _groups(pack, budget, packed.input_ids.device):
            last = real.sum(-1, keepdim=True) - 1
            logits = state.copied(ids.new_zeros(len(group))).follow(model, ids, last)[:, 0]
            of_pack.update(zip(group, logits))
        found += [of_pack[number] for number in range(len(pack.branches))]
    return torch.stack(found)


@torch.no_grad()
def sample_over_copies(
    model: torch.nn.Module,
    prompts: torch.Tensor,
    choose: TokenChooser,
    images: list[dict[str, torch.Tensor]],
) -> torch.Tensor:
    """Samples of prompts of one length; see :func:`rlaifv_kedro.branching.separate.sample_by_length`."""
    prefixes, ends = State.of_prefixes(model, prompts, joined_images(images))
    rows = torch.arange(len(prompts), device=prompts.device).repeat_interleave(choose.samples)
    return _drawn(model, prefixes.copied(rows), ends[:, None].expand(-1, choose.samples, -1), choose)


@torch.no_grad()
def sample_over_copied_branches(
    model: torch.nn.Module, packed: PackedBatch, choose: TokenChooser, inputs: dict[str, Any]
) -> torch.Tensor:
    """Tokens that follow every branch: int64 (packs, most branches, steps).

    Branches of one length go together, since what follows them must not follow padding.
    """
    settings, device = choose.settings, packed.input_ids.device
    shape = (len(packed.prefix_lengths), choose.samples, settings.max_new_tokens)
    drawn = torch.full(shape, settings.pad, device=device)
    for row, (pack, prefix, _) in enumerate(_prefixes(model, packed, inputs)):
        for length in {len(branch) for branch in pack.branches}:
            alike = [i for i, branch in enumerate(pack.branches) if len(branch) == length]
            whole = [prefix.length + length + settings.max_new_tokens] * len(alike)
            for group in within_budget(whole, TOKENS_A_PASS):
                numbers = [alike[i] for i in group]
                ids = torch.tensor([pack.branches[i] for i in numbers], device=device)
                state = prefix.copied(ids.new_zeros(len(numbers)))
                logits = state.next_logits(model, ids)
                part = _drawn(model, state, logits[:, None], choose.of_samples(row, numbers))
                drawn[row, numbers, : part.shape[-1]] = part[:, 0]
    return drawn


def _drawn(model: torch.nn.Module, state: State, first: torch.Tensor, choose: TokenChooser) -> torch.Tensor:
    """Tokens of samples, each a row of the state.

    Args:
        first: Logits of the first token, (rows of the chooser, samples, vocabulary).
    """

    def following(token: torch.Tensor, step: int) -> torch.Tensor:
        return state.next_logits(model, token.reshape(-1, 1)).view(first.shape)

    finished = torch.zeros(first.shape[:2], dtype=torch.bool, device=first.device)
    return draw(first, finished, following, choose)


def _prefixes(
    model: torch.nn.Module, packed: PackedBatch, inputs: dict[str, Any]
) -> Iterator[tuple[Pack, State, torch.Tensor]]:
    """Each pack with the state after its prefix, and the logits there, (1, vocabulary).

    One at a time: prefixes of different lengths would need padding, and memory holds one pack's copies.
    """
    images = images_of_packs(inputs, len(packed.prefix_lengths))
    for pack, own in zip(packed.unpack(), images):
        if pack.branches:
            ids = torch.tensor([pack.prefix], device=packed.input_ids.device)
            yield pack, *State.of_prefixes(model, ids, own)


def _groups(
    pack: Pack, budget: int | None, device: torch.device
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """The branches that have tokens, in groups of like length: their numbers, ids and what is no padding.

    Both are (branches, length), padded on the right.
    """
    order = sorted((i for i, b in enumerate(pack.branches) if b), key=lambda i: len(pack.branches[i]))
    whole = [len(pack.prefix) + len(pack.branches[i]) for i in order]
    for places in within_budget(whole, budget or TOKENS_A_PASS):
        group = [order[i] for i in places]
        branches = [torch.tensor(pack.branches[i], device=device) for i in group]
        ids = torch.nn.utils.rnn.pad_sequence(branches, batch_first=True)
        lengths = torch.tensor([len(branch) for branch in branches], device=device)
        yield group, ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]
