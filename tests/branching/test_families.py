"""Every family of models against its own plain forward pass: one sequence at a time, unpadded, with its
own masks, positions and type ids.
"""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from rlaifv_kedro.branching import (
    Pack,
    attention,
    branch_log_probs,
    choose_way,
    collate,
    copied,
    forward,
    next_token_probs,
    sampling,
    scoring,
    separate,
)
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.packed import packed_log_probs
from rlaifv_kedro.branching.sampling import sample_after_branches, sample_branches
from tiny_families import (
    COPIED,
    FAMILIES,
    IMAGE,
    Family,
    Inputs,
    by_hand,
    by_hand_log_probs,
    by_hand_next,
    drawn,
    together,
)

TOKENS = [5, 17, 42]
SEEDS = [[11, 12, 13], [21, 22, 23], [31, 32, 33]]


class Case:
    """A family's model in one dtype, three packs with their images, and what they should give."""

    def __init__(self, family: Family, dtype: torch.dtype):
        self.family, self.dtype = family, dtype
        self.model = copy.deepcopy(_model(family)).to(dtype)
        self.packs, self.images = family.packs()
        with torch.no_grad():
            self.log_probs = by_hand_log_probs(self.model, family, self.packs, self.images)
            self.next_probs = by_hand_next(self.model, family, self.packs, self.images)

    def inputs(self, rows: list[int]) -> Inputs:
        return together([self.images[i] for i in rows], self.dtype)


@cache
def _model(family: Family) -> PreTrainedModel:
    """Before ``choose_way`` has seen it."""
    return drawn(family.build())


@cache
def _case(name: str, dtype: torch.dtype) -> Case:
    return Case(FAMILIES[name], dtype)


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return _case(request.param, torch.float64)


@pytest.fixture(params=[name for name, family in FAMILIES.items() if family.way == "packed"])
def packed_case(request: pytest.FixtureRequest) -> Case:
    return _case(request.param, torch.float64)


def test_the_way(case: Case) -> None:
    assert choose_way(case.model) == case.family.way


@pytest.mark.parametrize("budget", [None, 1, 5, 7])
@pytest.mark.parametrize("rows", [[[0, 1, 2]], [[0], [1], [2]]], ids=["batch 3", "batch 1"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_one_plain_sequence_at_a_time(
    name: str, dtype: torch.dtype, tolerance: float, rows: list[list[int]], budget: int | None
) -> None:
    """A budget of 1 makes every branch a group of its own, 5 puts branches of 1 to 9 tokens together and
    has one too long for it.
    """
    case = _case(name, dtype)
    log_probs, probs = [], []
    for batch in rows:
        packed, inputs = collate([case.packs[i] for i in batch], pad=0), case.inputs(batch)
        with torch.no_grad():
            found = branch_log_probs(case.model, packed, max_tokens_per_pack=budget, **inputs)
        assert found.counts.tolist() == [len(b) for i in batch for b in case.packs[i].branches]
        log_probs.append(found.tokens)
        probs.append(next_token_probs(case.model, packed, TOKENS, max_tokens_per_pack=budget, **inputs))
    tolerance = max(tolerance, case.family.tolerance)
    assert_close(torch.cat(log_probs), case.log_probs, atol=tolerance, rtol=0)
    assert_close(torch.cat(probs), case.next_probs[:, TOKENS], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", COPIED)
def test_more_families_that_share_a_prefix_by_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs, next tokens, samples of prompts and after branches, one batch with its images joined as
    backends join them; no branch is computed by itself.
    """
    from rlaifv_kedro.models.backends.transformers import batched
    from rlaifv_kedro.models.encoding import EncodedImage

    case = Case(COPIED[name], torch.float64)
    inputs = batched([EncodedImage(image, []) for image in case.images], "cpu")
    assert choose_way(case.model) == "copied"
    packed, tolerance = collate(case.packs, pad=0), case.family.tolerance
    for slow in ("separate_log_probs", "separate_next_logits"):
        monkeypatch.setattr(scoring, slow, None)
    monkeypatch.setitem(sampling._SAMPLERS, "separate", None)
    with torch.no_grad():
        for budget in (None, 40):
            found = branch_log_probs(case.model, packed, max_tokens_per_pack=budget, **inputs).tokens
            assert_close(found, case.log_probs, atol=tolerance, rtol=0)
            probs = next_token_probs(case.model, packed, TOKENS, max_tokens_per_pack=budget, **inputs)
            assert_close(probs, case.next_probs[:, TOKENS], atol=tolerance, rtol=0)
    settings = SamplingSettings(1.5, 6, pad=0, stop={2}, suppress=[IMAGE, 61])
    prompts = [pack.prefix for pack in case.packs]
    samples = sample_branches(case.model, prompts, SEEDS, settings, inputs)
    after = sample_after_branches(case.model, case.packs, [[1, 2, 3, 4]] * 3, settings, inputs)
    for pack, image, seeds, row, others in zip(case.packs, case.images, SEEDS, samples, after):
        assert row == [drawn_by_hand(case, pack.prefix, image, seed, 6) for seed in seeds]
        assert others == [
            drawn_by_hand(case, pack.prefix + branch, image, seed, 6)
            for seed, branch in enumerate(pack.branches, 1)
        ]


def drawn_by_hand(case: Case, prompt: list[int], image: Inputs, seed: int, steps: int) -> list[int]:
    """A sample at temperature 1.5 by the plain forward pass: where the cumulated probabilities pass the
    seed's numbers.
    """
    found: list[int] = []
    for uniform in np.random.default_rng(seed).random(steps):
        with torch.no_grad():
            logits = by_hand(case.model, case.family, prompt, found, image)[-1]
        logits[[IMAGE, 61]] = -torch.inf
        cumulated = (logits.float() / 1.5).softmax(-1).cumsum(-1, dtype=torch.float64)
        found.append(int((cumulated <= uniform * cumulated[-1]).sum()))
        if found[-1] == 2:
            break
    return found


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attention by pieces however small the packs; what was gathered for them, by the length of its
    prefix.
    """
    monkeypatch.setattr(attention, "_WORTHWHILE", -(10**9))
    monkeypatch.setattr(attention, "_PIECE_TOKENS", 6)
    computed: list[int] = []
    original = attention._seen
    monkeypatch.setattr(
        attention,
        "_seen",
        lambda tensor, prefix, own, dim: computed.append(prefix) or original(tensor, prefix, own, dim),
    )
    return computed


@pytest.mark.parametrize("budget", [None, 5])
def test_scores_by_pieces_of_attention(packed_case: Case, budget: int | None, in_pieces: list[int]) -> None:
    """The same when the language model attends by pieces, which packs as small as these don't do by
    themselves.
    """
    packed, inputs = collate(packed_case.packs, pad=0), packed_case.inputs([0, 1, 2])
    with torch.no_grad():
        found = branch_log_probs(packed_case.model, packed, max_tokens_per_pack=budget, **inputs).tokens
    assert_close(found, packed_case.log_probs, atol=1e-8, rtol=0)
    assert in_pieces


@pytest.mark.parametrize("wrong", ["positions", "mask", "image"])
def test_a_wrong_position_mask_or_image_would_show(packed_case: Case, wrong: str) -> None:
    """So the comparisons above can fail: positions that go on from branch to branch, branches that see
    each other, the images of other packs.
    """
    packed, order = collate(packed_case.packs, pad=0), [0, 1, 2]
    choose_way(packed_case.model)
    if wrong == "positions":
        packed = replace(
            packed, position_ids=torch.arange(packed.input_ids.shape[1]).expand_as(packed.input_ids)
        )
    elif wrong == "mask":
        packed.__dict__["attention_mask"] = torch.ones_like(packed.attention_mask).tril()
    inputs = packed_case.inputs(order)
    if wrong == "image":
        inputs["pixel_values"] = inputs["pixel_values"].flip(0)
    with torch.no_grad():
        found = packed_log_probs(packed_case.model, packed, **inputs).tokens
    assert (found - packed_case.log_probs).abs().max() > 1e-3


def test_plain_instead_of_multimodal_positions_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case("qwen2.5-vl", torch.float64)
    monkeypatch.setattr(forward, "spatial_positions", lambda *args: None)
    with torch.no_grad():
        found = branch_log_probs(case.model, collate(case.packs, pad=0), **case.inputs([0, 1, 2])).tokens
    difference = (found - case.log_probs).abs().split([17, 4, 11])
    assert all(part.max() > 1e-3 for part in difference)


@pytest.mark.parametrize(
    ("name", "way"), [("gemma3", "copied"), ("gemma3", "separate"), ("paligemma", "separate")]
)
def test_a_prompt_seen_in_one_direction_would_show(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case(name, torch.float64)
    already_tried(case, way, monkeypatch)
    for module in (copied, separate):
        monkeypatch.setattr(module, "type_ids", lambda model, ids, segments: {})
    with torch.no_grad():
        found = branch_log_probs(case.model, collate(case.packs, pad=0), **case.inputs([0, 1, 2])).tokens
    assert (found - case.log_probs).abs().max() > 1e-3


def already_tried(case: Case, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a model go this way without the trials, which would find what a test breaks."""
    monkeypatch.setattr(case.model, "_branching_way", way, raising=False)
    tried = {(image, beyond): True for image in (False, True) for beyond in (False, True)}
    monkeypatch.setattr(case.model, "_copying_tried", tried, raising=False)


@pytest.mark.parametrize("wrong", ["offset", "recurrent state", "image"])
def test_a_mistake_in_copying_would_show(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions without the image's offset, recurrent layers that begin anew, another pack's image."""
    case = _case("qwen3.5", torch.float64)
    already_tried(case, "copied", monkeypatch)
    inputs, follow = case.inputs([0, 1, 2]), copied.State.follow

    def without(state: copied.State, *args: object) -> torch.Tensor:
        if wrong == "recurrent state":
            state.cache.layers[0].recurrent_states[0].zero_()
            return follow(state, *args)
        return follow(replace(state, offset=state.offset * 0), *args)

    if wrong == "image":
        inputs["pixel_values"] = inputs["pixel_values"].flip(0)
    else:
        monkeypatch.setattr(copied.State, "follow", without)
    with torch.no_grad():
        found = branch_log_probs(case.model, collate(case.packs, pad=0), **inputs).tokens
    assert (found - case.log_probs).abs().max() > 1e-3


def test_an_answer_that_sees_what_follows_it_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """PaliGemma with type 0 for the answer too."""
    case = _case("paligemma", torch.float64)
    already_tried(case, "separate", monkeypatch)
    monkeypatch.setattr(
        separate, "type_ids", lambda model, ids, segments: {"token_type_ids": torch.zeros_like(ids)}
    )
    with torch.no_grad():
        found = branch_log_probs(case.model, collate(case.packs, pad=0), **case.inputs([0, 1, 2])).tokens
    assert (found - case.log_probs).abs().max() > 1e-3


def test_text_without_images(case: Case) -> None:
    packs = [Pack([1, 5, 6, 7], [[8, 9, 10], [11]]), Pack([1, 12], [[13, 14], [15, 16, 17, 18]])]
    with torch.no_grad():
        expected = by_hand_log_probs(case.model, case.family, packs)
        for budget in (None, 3):
            assert_close(
                branch_log_probs(case.model, collate(packs, 0), max_tokens_per_pack=budget).tokens,
                expected,
                atol=case.family.tolerance,
                rtol=0,
            )


def assert_same_gradients(model: torch.nn.Module, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Gradients of a sum of the tokens with different weights, relative 1e-6 of each tensor's norm."""
    weights = torch.linspace(0.5, 2.0, len(expected), dtype=expected.dtype)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = []
    for value in (found, expected):
        model.zero_grad()
        (weights * value).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert sum(g.norm() > 1e-3 for g in gradients[1].values()) > len(gradients[1]) / 2
    for name, gradient in gradients[1].items():
        # What is exactly 0 in theory (the keys' bias: a softmax ignores what is added to all of its row) is
        # rounding in both.
        assert (gradients[0][name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_gradients(case: Case, checkpointing: bool) -> None:
    check_gradients(case, checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_gradients_by_pieces_of_attention(
    packed_case: Case, checkpointing: bool, in_pieces: list[int]
) -> None:
    check_gradients(packed_case, checkpointing)
    assert in_pieces


def check_gradients(case: Case, checkpointing: bool) -> None:
    model = copy.deepcopy(case.model)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    found = branch_log_probs(model, collate(case.packs, pad=0), **case.inputs([0, 1, 2])).tokens
    assert_same_gradients(model, found, by_hand_log_probs(model, case.family, case.packs, case.images))


@pytest.mark.parametrize("name", ["qwen2.5-vl", "paligemma"])
def test_gradients_with_lora(name: str) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    case = _case(name, torch.float64)
    lora = LoraConfig(
        r=4, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", init_lora_weights=False
    )
    model = get_peft_model(copy.deepcopy(case.model), lora).double()
    found = branch_log_probs(model, collate(case.packs, pad=0), **case.inputs([0, 1, 2])).tokens
    expected = by_hand_log_probs(model, case.family, case.packs, case.images)
    assert (expected - case.log_probs).abs().max() > 1e-3  # the adapters matter
    assert_close(found, expected, atol=1e-8, rtol=0)
    assert_same_gradients(model, found, expected)


def draw(
    case: Case, rows: list[int], seeds: list[list[int]], temperature: float, steps: int = 8
) -> list[list[list[int]]]:
    return sample_branches(
        case.model,
        [case.packs[i].prefix for i in rows],
        seeds,
        SamplingSettings(temperature, steps, pad=0, stop={2}, suppress=[60, 61]),
        inputs=case.inputs(rows),
    )


def test_greedy_answers_are_generate_s(case: Case) -> None:
    """Against the family's own ``generate``, one prompt at a time; ours goes in one padded batch."""
    found = draw(case, [0, 1, 2], [[0]] * 3, temperature=0)
    assert len({tuple(row[0]) for row in found}) == 3
    for (answer,), pack, image in zip(found, case.packs, case.images):
        ids = torch.tensor([pack.prefix])
        expected = case.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=8,
            suppress_tokens=[60, 61],
            **case.family.types(ids, len(pack.prefix)),
            **image,
        )
        assert answer == expected[0, ids.shape[1] :].tolist()


def test_every_token_is_drawn_from_the_plain_forward_pass(case: Case) -> None:
    """Token t of a sample lies where the tempered probabilities after the first t tokens, cumulated, pass the
    t-th number of ``default_rng(seed)``. Computed here without a cache, without padding, one sequence at a
    time.
    """
    temperature = 1.5
    found = draw(case, [0, 1, 2], SEEDS, temperature)
    assert len({tuple(ids) for row in found for ids in row}) == 9
    for row, seeds, pack, image in zip(found, SEEDS, case.packs, case.images):
        for sample, seed in zip(row, seeds):
            for t, uniform in enumerate(np.random.default_rng(seed).random(8)[: len(sample)]):
                with torch.no_grad():
                    logits = by_hand(case.model, case.family, pack.prefix, sample[:t], image)[-1]
                logits[[60, 61]] = -torch.inf
                cumulated = (logits / temperature).softmax(-1).cumsum(-1)
                assert sample[t] == int((cumulated <= uniform).sum())


def test_a_candidate_is_the_same_alone_in_a_batch_and_in_another_order(case: Case) -> None:
    together = draw(case, [0, 1, 2], SEEDS, temperature=1.5)
    assert len({len(p.prefix) for p in case.packs}) > 1  # so the batch was padded
    backwards = draw(case, [2, 1, 0], [row[::-1] for row in SEEDS[::-1]], temperature=1.5)
    assert [row[::-1] for row in backwards[::-1]] == together
    assert [
        [draw(case, [i], [[seed]], temperature=1.5)[0][0] for seed in row] for i, row in enumerate(SEEDS)
    ] == together


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_follows_a_branch_is_what_follows_the_prompt_with_it(case: Case, temperature: float) -> None:
    """Each branch's continuation against that of prefix and branch as one prompt about the image; packs
    have different numbers of branches.
    """
    packs = [Pack(p.prefix, p.branches[: i + 1]) for i, p in enumerate(case.packs)]
    seeds = [[10 * i + k for k in range(len(p.branches))] for i, p in enumerate(packs)]
    settings = SamplingSettings(temperature, 8, pad=0, stop={2}, suppress=[60, 61])
    found = sample_after_branches(case.model, packs, seeds, settings, case.inputs([0, 1, 2]))
    if case.family is FAMILIES["paligemma"]:  # a question changes what stands before it
        assert found is None
        return
    assert len({tuple(ids) for row in found for ids in row}) > 2
    for i, (p, row) in enumerate(zip(packs, found)):
        for k, branch in enumerate(p.branches):
            assert [[row[k]]] == sample_branches(
                case.model, [p.prefix + branch], [[seeds[i][k]]], settings, case.inputs([i])
            )


def test_prompts_of_one_length_keep_their_images_and_seeds(case: Case) -> None:
    """The same prompt about two images, then another prompt, then the first about its first image once
    more with other seeds.
    """
    other, _ = case.family.image(torch.Generator().manual_seed(9), 0)
    prompts = [case.packs[i].prefix for i in (0, 0, 1, 0)]
    images = [case.images[0], other, case.images[1], case.images[0]]
    seeds = [[1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8, 9]]

    def sample(rows: list[int]) -> list[list[list[int]]]:
        return sample_branches(
            case.model,
            [prompts[i] for i in rows],
            [seeds[i] for i in rows],
            SamplingSettings(temperature=1.5, max_new_tokens=6, pad=0, stop={2}, suppress=[60, 61]),
            inputs=together([images[i] for i in rows]),
        )

    alone = [sample([i])[0] for i in range(4)]
    assert alone[0] != alone[1] and alone[0] != alone[3]
    assert sample([0, 1, 2, 3]) == alone
