"""Attention by pieces against the dense mask that it stands for."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlaifv_kedro.branching import (
    Pack,
    PackedBatch,
    attention,
    branch_log_probs,
    choose_way,
    collate,
    next_token_probs,
)
from rlaifv_kedro.branching.attention import (
    NAME,
    BranchLayout,
    Piece,
    branch_attention,
    layout,
    use_branch_attention,
)
from rlaifv_kedro.models import load_model
from tiny_families import FAMILIES, TEXT, by_hand_log_probs, drawn, llama, text_packs

Lengths = tuple[int, list[int]]  # of a prefix and of its branches
BATCHES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=6)), min_size=1, max_size=3
)
WITHOUT_BRANCHES: list[Lengths] = [(4, []), (2, [])]
EMPTY_BRANCHES: list[Lengths] = [(3, [0, 2, 0]), (1, [0]), (2, [0, 0])]


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """Pieces for packs of any size, several branches to a piece, and whatever was computed as a piece."""
    monkeypatch.setattr(attention, "_WORTHWHILE", -(10**9))
    monkeypatch.setattr(attention, "_PIECE_TOKENS", 6)
    computed: list[Piece] = []

    def spy(*args: object, branch_layout: BranchLayout | None = None, **kwargs: object) -> object:
        computed.extend(p for row in (branch_layout.rows if branch_layout else []) for p in row)
        return branch_attention(*args, branch_layout=branch_layout, **kwargs)

    from transformers import AttentionInterface

    monkeypatch.setattr(attention, "branch_attention", spy)  # for models that are registered from now on
    AttentionInterface.register(NAME, spy)
    yield computed
    AttentionInterface.register(NAME, branch_attention)


def batch_of(lengths: list[Lengths], cached: bool) -> tuple[PackedBatch, int | None, torch.Tensor]:
    """A batch, the length of the prefixes' cache or None, and by the definition which key (last) a query may
    see: bool (packs, queries, keys).

    With a cache the batch holds branches only, and the keys are the padded prefixes and then the branches.
    """
    width = max(prefix for prefix, _ in lengths) if cached else 0
    rows = [
        [(-1 if i < prefix else 0, i) for i in range(prefix)] for prefix, _ in lengths
    ]  # of each key: (branch or -1, place in the row)
    for row, (_, branches) in zip(rows, lengths):
        row += [(k, i) for k, n in enumerate(branches) for i in range(n)]
    size = max(map(len, rows)) if not cached else max(sum(branches) for _, branches in lengths)
    allowed = torch.zeros(len(lengths), size, width + size, dtype=torch.bool)
    segments = torch.full((len(lengths), size), -1)
    for row, (prefix, branches) in enumerate(lengths):
        starts = [0 if cached else prefix]
        for n in branches:
            starts.append(starts[-1] + n)
        if not cached:
            segments[row, :prefix] = 0
            allowed[row, :prefix, :prefix] = torch.ones(prefix, prefix).tril().bool()
        for k, (start, n) in enumerate(zip(starts, branches), start=1):
            segments[row, start : start + n] = k
            allowed[row, start : start + n, :prefix] = True
            allowed[row, start : start + n, width + start : width + start + n] = (
                torch.ones(n, n).tril().bool()
            )
    nothing = torch.zeros_like(segments)
    batch = PackedBatch(
        nothing, nothing, segments, [prefix for prefix, _ in lengths], [branches for _, branches in lengths]
    )
    return batch, width if cached else None, allowed


def pieces_of(batch: PackedBatch, cached: int | None, together: int) -> BranchLayout:
    """The layout however small the packs, with branches of up to so many tokens to a piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_WORTHWHILE", -(10**9))
        patch.setattr(attention, "_PIECE_TOKENS", together)
        found = layout(batch, cached)
    assert found is not None
    return found


@settings(deadline=None)
@given(BATCHES, st.booleans(), st.sampled_from([1, 4, 128]))
def test_pieces_are_the_dense_mask(lengths: list[Lengths], cached: bool, together: int) -> None:
    """Every token of a pack is a query of exactly one piece. A piece without a mask is causal and sees
    exactly its triangle; one with a mask has every key that its queries may see. Nothing lies outside the
    tensors.
    """
    batch, width, allowed = batch_of(lengths, cached)
    if batch.segments.numel() == 0:
        return
    found = pieces_of(batch, width, together)
    assert (found.queries, found.keys) == tuple(allowed.shape[1:])
    for row, pieces in enumerate(found.rows):
        covered = torch.zeros(found.queries, dtype=torch.int64)
        for piece in pieces:
            queries = slice(piece.start, piece.stop)
            covered[queries] += 1
            seen = [*range(piece.prefix), *range(piece.own, piece.own + piece.stop - piece.start)]
            assert len(seen) == len(set(seen)) == piece.keys and max(seen) < found.keys
            unseen = [i for i in range(found.keys) if i not in seen]
            assert not allowed[row, queries][:, unseen].any()
            if piece.causal:
                assert torch.equal(
                    allowed[row, queries][:, seen],
                    torch.ones(piece.stop - piece.start, piece.keys).tril().bool(),
                )
            elif together == 1 and batch.branch_lengths[row]:
                assert len(set(batch.segments[row, queries].tolist())) == 1  # alone in its piece
        assert covered.tolist() == (batch.segments[row] >= 0).long().tolist()


def test_pieces_worked_by_hand() -> None:
    """A prefix of 600 and 60 questions of 25: the prefix with the first, then 11 of five (125 of at most 128
    tokens) and one of the last four. In pairs of query and key: half of 625^2, 11 times 125 x 725 and 100 x
    700, which is 1.26 million, against 2100^2 = 4.41 million in one mask.
    """
    batch, _, _ = batch_of([(600, [25] * 60)], cached=False)
    found = layout(batch)
    assert found is not None
    (pieces,) = found.rows
    assert [p.stop - p.start for p in pieces] == [625] + [125] * 11 + [100]
    assert (
        sum((p.stop - p.start) * p.keys // (2 if p.causal else 1) for p in pieces)
        == 625**2 // 2 + 11 * 125 * 725 + 100 * 700
    )
    assert pieces[0] == Piece(0, 625, 0, 0, causal=True)
    assert pieces[1] == Piece(625, 750, 600, 625, causal=False)


def test_small_packs_stay_dense() -> None:
    """Two packs of 15 tokens: 450 pairs of query and key; nothing to gain."""
    batch, _, _ = batch_of([(5, [5, 5])] * 2, cached=False)
    assert layout(batch) is None


class Tensors:
    """Random queries, keys and values for a batch, in float64, with gradients: (rows, heads, length,
    size).
    """

    def __init__(self, rows: int, queries: int, keys: int, heads: int, groups: int):
        generator = torch.Generator().manual_seed(queries + 31 * keys)

        def normal(heads: int, length: int, size: int) -> torch.Tensor:
            return torch.randn(
                rows, heads, length, size, generator=generator, dtype=torch.float64
            ).requires_grad_()

        self.query, self.key, self.value = (
            normal(heads, queries, 8),
            normal(heads // groups, keys, 8),
            normal(heads // groups, keys, 6),
        )
        self.module = SimpleNamespace(num_key_value_groups=groups, training=False, is_causal=True)

    def gradients(self, output: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((output * weights).sum(), (self.query, self.key, self.value))


def by_definition(t: Tensors, allowed: torch.Tensor, scaling: float) -> torch.Tensor:
    """softmax(q k^T * scaling) v over the allowed keys; 0 where there is none: (rows, queries, heads,
    size).
    """
    key, value = (x.repeat_interleave(t.module.num_key_value_groups, 1) for x in (t.key, t.value))
    scores = (t.query @ key.mT * scaling).masked_fill(~allowed[:, None], -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ value).transpose(1, 2)


@pytest.mark.parametrize(
    "lengths",
    [WITHOUT_BRANCHES, EMPTY_BRANCHES, [(600, [25] * 8), (550, [100, 3])]],
    ids=["no branches", "empty", "large"],
)
@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_branch_attention_by_example(lengths: list[Lengths], cached: bool, groups: int) -> None:
    check_branch_attention(lengths, cached, 4, groups)


@settings(deadline=None, max_examples=60)
@given(BATCHES, st.booleans(), st.sampled_from([1, 4, 128]), st.sampled_from([1, 2, 4]))
def test_branch_attention_is_dense_attention(
    lengths: list[Lengths], cached: bool, together: int, groups: int
) -> None:
    check_branch_attention(lengths, cached, together, groups)


def check_branch_attention(lengths: list[Lengths], cached: bool, together: int, groups: int) -> None:
    """Outputs of all tokens of packs, and gradients of a sum of them with random weights, against the
    definition with one dense mask. The mask that the function gets is the dense one, with a padding position
    that sees itself.
    """
    batch, width, allowed = batch_of(lengths, cached)
    rows, queries, keys = allowed.shape
    if queries == 0:
        return
    t = Tensors(rows, queries, keys, 4, groups)
    real = batch.segments >= 0
    itself = torch.eye(queries, keys, dtype=torch.bool).roll(keys - queries, dims=1)
    mask = (allowed | (itself & ~real[:, :, None]))[:, None]
    found, no_weights = branch_attention(
        t.module,
        t.query,
        t.key,
        t.value,
        mask,
        branch_layout=pieces_of(batch, width, together),
        scaling=0.4,
        dropout=0.0,
        is_causal=True,
    )
    expected = by_definition(t, allowed, 0.4)
    assert no_weights is None
    assert found.shape == expected.shape == (rows, queries, 4, 6)
    assert_close(found[real], expected[real], atol=1e-10, rtol=0)
    weights = (
        torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * real[:, :, None, None]
    )
    for gradient, wanted in zip(t.gradients(found, weights), t.gradients(expected, weights)):
        assert_close(gradient, wanted, atol=1e-10, rtol=0)


def test_a_layout_of_other_lengths_is_ignored() -> None:
    """As when a vision tower of the same model gets it: 7 queries and keys where the layout is for 8."""
    batch, _, _ = batch_of([(4, [2, 2])], cached=False)
    t = Tensors(1, 7, 7, 4, 2)
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    found = branch_attention(
        t.module, t.query, t.key, t.value, mask, branch_layout=pieces_of(batch, None, 1)
    )[0]
    assert torch.equal(found, sdpa_attention_forward(t.module, t.query, t.key, t.value, mask)[0])


class NotHandedDown(LlamaForCausalLM):
    """Takes any keyword and hands down those it knows."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: object = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: object,
    ) -> object:
        known = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
        )
        return super().forward(**known, use_cache=use_cache, logits_to_keep=logits_to_keep)


class NotTaken(NotHandedDown):
    """Takes the keywords of a language model and no other, like much code that comes with a checkpoint."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: object = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> object:
        known = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
        )
        return super().forward(**known, use_cache=use_cache, logits_to_keep=logits_to_keep)


@pytest.mark.parametrize("kind", [NotHandedDown, NotTaken])
@pytest.mark.parametrize("budget", [None, 6])
def test_a_model_that_does_not_hand_the_layout_down_is_dense_and_right(
    kind: type[PreTrainedModel], budget: int | None, in_pieces: list[Piece]
) -> None:
    model, packs = drawn(kind(LlamaConfig(**TEXT))), text_packs()
    with torch.no_grad():
        assert choose_way(model) == "packed"
        found = branch_log_probs(model, collate(packs, pad=0), max_tokens_per_pack=budget).tokens
        assert_close(found, by_hand_log_probs(model, None, packs), atol=1e-8, rtol=0)
    assert not in_pieces


@pytest.mark.parametrize("budget", [None, 6, 11])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_language_model_by_pieces(budget: int | None, groups: int, in_pieces: list[Piece]) -> None:
    """Log-probs, next-token probabilities and gradients with pieces and without, with a pack without
    branches in the batch and an empty branch.
    """
    model = drawn(LlamaForCausalLM(LlamaConfig(**{**TEXT, "num_key_value_heads": 4 // groups})))
    dense = copy.deepcopy(model)
    dense._branching_way = "packed"  # by transformers' own SDPA, as it was never told otherwise
    packs = [*text_packs(), Pack([7, 8, 9], []), Pack([7, 8], [[9, 10], [], [11]])]
    packed, full = collate(packs, pad=0), collate(packs[:4], pad=0)
    with torch.no_grad():
        found = branch_log_probs(model, packed, max_tokens_per_pack=budget).tokens
        assert_close(found, branch_log_probs(dense, packed).tokens, atol=1e-10, rtol=0)
        found = next_token_probs(model, full, list(range(64)), max_tokens_per_pack=budget)
        assert_close(found, next_token_probs(dense, full, list(range(64))), atol=1e-10, rtol=0)
    assert in_pieces and dense.config._attn_implementation == "sdpa"
    for m in (model, dense):
        branch_log_probs(m, packed).tokens.square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), dense.parameters()):
        assert (p.grad - q.grad).norm() <= 1e-9 * q.grad.norm(), name


@pytest.mark.parametrize("budget", [None, 6])
def test_llava_by_pieces(
    tiny: Path, pictures: list[Image.Image], budget: int | None, in_pieces: list[Piece]
) -> None:
    """Only its language model: the vision tower attends as it did."""
    loaded = load_model(tiny, device="cpu")
    images = [loaded.encoder.image(p) for p in pictures[:2]]
    answers = [
        ["a cup, a bowl and an oven.", "a cup.", "it contains an oven and an apple."],
        ["i see a dog."],
    ]
    packs = [
        Pack(*loaded.encoder.answers("describe the image in detail.", a, i)) for a, i in zip(answers, images)
    ]
    pixels = torch.cat([i.inputs["pixel_values"] for i in images]).double()
    model = loaded.module.double()
    expected = []
    with torch.no_grad():
        for pack, image in zip(packs, pixels):
            for branch in pack.branches:
                ids = torch.tensor([pack.prefix + branch])
                log_probs = model(input_ids=ids, pixel_values=image[None]).logits.log_softmax(-1)[
                    0, len(pack.prefix) - 1 : -1
                ]
                expected.append(log_probs.gather(-1, torch.tensor(branch)[:, None]).squeeze(-1))
        assert not in_pieces
        found = branch_log_probs(
            model, collate(packs, pad=0), max_tokens_per_pack=budget, pixel_values=pixels
        ).tokens
    assert_close(found, torch.cat(expected), atol=1e-8, rtol=0)
    assert in_pieces
    assert model.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "idefics3", "qwen2.5-vl"])
@pytest.mark.parametrize("padding", ["none", "no mask", "right", "left"])
def test_ordinary_passes_stay_as_they_were(name: str, padding: str) -> None:
    """Bit for bit: logits and gradients of a padded batch, and generated tokens."""
    model = llama() if name == "llama" else drawn(FAMILIES[name].build())
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 60, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    if padding in ("left", "right"):
        mask[0, slice(0, 3) if padding == "left" else slice(6, 9)] = 0

    def passes(model: PreTrainedModel) -> list[torch.Tensor]:
        inputs = {"input_ids": ids} if padding == "no mask" else {"input_ids": ids, "attention_mask": mask}
        logits = model(**inputs).logits
        gradients = torch.autograd.grad(
            logits.square().sum(),
            [p for n, p in model.named_parameters() if "q_proj" in n or "v_proj" in n],
            allow_unused=True,
        )
        found = [logits.detach(), *(g for g in gradients if g is not None)]
        if padding != "right":
            found.append(model.generate(**inputs, do_sample=False, max_new_tokens=5))
        return found

    before = passes(model)
    use_branch_attention(model)
    assert model.config.get_text_config()._attn_implementation == NAME
    after = passes(model)
    assert len(before) == len(after) > 3
    assert all(torch.equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize("name", ["llama", "idefics3"])
def test_a_saved_model_does_not_know_the_name(name: str, tmp_path: Path) -> None:
    """It would not load where this package isn't."""
    model = (llama() if name == "llama" else drawn(FAMILIES[name].build())).float()
    assert choose_way(model) == "packed"
    model.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):
        assert NAME not in json.dumps(json.loads(file.read_text())).replace("branching", "")
    if name == "llama":
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert again.config._attn_implementation == "sdpa"
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert model.config.get_text_config()._attn_implementation == NAME
