"""Which way a model is computed, and that the numbers are right whichever it is; language models without images."""

import logging
from collections.abc import Callable

import pytest
import torch
from tiny_families import FAMILIES, TEXT, by_hand, by_hand_log_probs, by_hand_next, drawn, text_packs
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from rlaifv_kedro.branching import Pack, branch_log_probs, choose_way, collate, next_token_probs, separate
from rlaifv_kedro.branching.attention import NAME
from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.branching.separate import images_of_packs
from rlaifv_kedro.branching.ways import type_ids
from rlaifv_kedro.errors import UserError

NO_SPECIAL = dict(vocab_size=64, bos_token_id=1, eos_token_id=2)
SMALL_GPT = dict(**NO_SPECIAL, n_embd=32, n_layer=2, n_head=4)
SMALL = dict(**NO_SPECIAL, hidden_size=32, num_hidden_layers=2)


def causal(model_type: str, **options: object) -> PreTrainedModel:
    return drawn(AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options)))


def llama(**options: object) -> PreTrainedModel:
    return drawn(LlamaForCausalLM(LlamaConfig(**TEXT, **options)))


def mistral(window: int | None) -> PreTrainedModel:
    return drawn(MistralForCausalLM(MistralConfig(**TEXT, sliding_window=window)))


class WithoutPositions(LlamaForCausalLM):
    """Takes positions and ignores them."""

    def forward(self, position_ids: torch.Tensor | None = None, **kwargs: object) -> object:
        return super().forward(**kwargs)


class WithoutMask(LlamaForCausalLM):
    """Takes a mask and ignores it."""

    def forward(self, position_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: object) -> object:
        return super().forward(position_ids=position_ids, **kwargs)


class Refusing(LlamaForCausalLM):
    """Fails on a mask that isn't two-dimensional."""

    def forward(self, position_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: object) -> object:
        if attention_mask is not None:
            _, _ = attention_mask.shape
        return super().forward(position_ids=position_ids, attention_mask=attention_mask, **kwargs)


# The model, its way, and words of the reason that the log gives.
TEXT_MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str, str]] = {
    "llama": (llama, "packed", ""),
    "mistral": (lambda: mistral(None), "packed", ""),
    "gpt2": (lambda: causal("gpt2", **SMALL_GPT), "packed", ""),  # learned positions
    "falcon": (lambda: causal("falcon", **SMALL, num_attention_heads=4, alibi=False), "packed", ""),  # its own attention modules
    "falcon with alibi": (lambda: causal("falcon", **SMALL, num_attention_heads=4, alibi=True), "separate", "trial"),
    "bloom": (lambda: causal("bloom", **SMALL, n_head=4), "separate", "positions can't be given"),
    "mpt": (lambda: causal("mpt", **NO_SPECIAL, d_model=32, n_layers=2, n_heads=4, expansion_ratio=2), "separate", "positions can't be given"),
    "mamba": (lambda: causal("mamba", **SMALL, state_size=8), "separate", "recurrent"),
    "lfm2": (lambda: causal("lfm2", **TEXT, layer_types=["conv", "full_attention"]), "separate", "recurrent"),
    "llama4": (
        lambda: causal("llama4_text", **TEXT, head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=8),
        "separate", "chunks",
    ),
    "recurrent gemma": (
        lambda: causal("recurrent_gemma", **{**TEXT, "num_hidden_layers": 3}, lru_width=32, attention_window_size=64, head_dim=8),
        "separate", "recurrent",
    ),
    "ignores positions": (lambda: drawn(WithoutPositions(LlamaConfig(**TEXT))), "separate", "trial"),
    "ignores the mask": (lambda: drawn(WithoutMask(LlamaConfig(**TEXT))), "separate", "trial"),
    "refuses the mask": (lambda: drawn(Refusing(LlamaConfig(**TEXT))), "separate", "trial"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The way, the reason, and log-probs against one plain sequence at a time. Attention that isn't SDPA takes its softmax in float32."""
    build, way, reason = TEXT_MODELS[name]
    model, packs = build(), text_packs()
    packed = collate(packs, pad=0)
    with torch.no_grad():
        log_probs, probs = by_hand_log_probs(model, None, packs), by_hand_next(model, None, packs)
        with caplog.at_level(logging.WARNING, "rlaifv_kedro"):
            assert choose_way(model) == way
        assert [reason in r.getMessage() for r in caplog.records if r.name.startswith("rlaifv_kedro")] == ([True] if reason else [])
        tolerance = 1e-8 if model.config._attn_implementation in ("sdpa", NAME) and name not in ("mamba", "llama4") else 1e-5
        for budget in (None, 6):
            assert_close(branch_log_probs(model, packed, max_tokens_per_pack=budget).tokens, log_probs, atol=tolerance, rtol=0)
            assert_close(next_token_probs(model, packed, [5, 17], max_tokens_per_pack=budget), probs[:, [5, 17]], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_greedy_samples_of_text_models(name: str) -> None:
    """A padded batch of prompts of 11, 4 and 10 tokens against the argmax after one plain sequence at a time. In float32: with float64, transformers'
    eager attention makes NaN of a padded row.
    """
    model = TEXT_MODELS[name][0]().float()
    prompts = [p.prefix for p in text_packs()]
    found = sample_branches(model, prompts, [[1, 2]] * 3, temperature=0, max_new_tokens=6, pad=0, stop={2}, inputs={})
    for prompt, (answer, same) in zip(prompts, found):
        assert answer == same and answer
        for t, token in enumerate(answer):
            with torch.no_grad():
                assert token == by_hand(model, None, prompt, answer[:t], {})[-1].argmax()


def test_attention_to_the_last_tokens_by_index() -> None:
    """GPT-Neo's local layers count their window in places of the sequence, whatever the positions: in a pack, a late branch wouldn't see its prefix.
    A window of 24 is as long as the pack of the trial, and longer than the longest sequence here, so that separate sequences don't feel it.
    """
    attention = dict(attention_types=[[["global", "local"], 1]], window_size=24)
    model = causal("gpt_neo", **NO_SPECIAL, hidden_size=32, num_layers=2, num_heads=4, **attention)
    packs = text_packs(longest=20)
    assert max(map(len, packs)) > 24
    with torch.no_grad():
        expected = by_hand_log_probs(model, None, packs)
        assert_close(branch_log_probs(model, collate(packs, pad=0)).tokens, expected, atol=1e-5, rtol=0)


@pytest.fixture
def went_separate(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the slow functions that were called."""
    called: list[str] = []

    def spy_on(name: str) -> None:
        original = getattr(separate, name)
        monkeypatch.setattr(separate, name, lambda *args, **kwargs: called.append(name) or original(*args, **kwargs))

    spy_on("separate_log_probs")
    spy_on("separate_next_logits")
    return called


@pytest.mark.parametrize(
    ("window", "slow"),
    [(19, True), (20, False), (21, False), (10, True), (10**6, False)],  # the longest sequence has 20 tokens; 10 is shorter than the trial's too
)
@pytest.mark.parametrize("budget", [None, 6])
def test_a_sliding_window(window: int, slow: bool, budget: int | None, went_separate: list[str]) -> None:
    """Packed while no sequence is longer than the window, however long the pack (36 tokens)."""
    model, packs = mistral(window), text_packs(longest=20)
    packed = collate(packs, pad=0)
    choose_way(model)
    went_separate.clear()
    with torch.no_grad():
        found = branch_log_probs(model, packed, max_tokens_per_pack=budget).tokens
        assert_close(found, by_hand_log_probs(model, None, packs), atol=1e-8, rtol=0)
        expected = by_hand_next(model, None, packs)
        assert ((expected - by_hand_next(mistral(None), None, packs)).abs().max() > 1e-3) == slow  # the window matters where it cuts
        assert_close(next_token_probs(model, packed, list(range(64)), max_tokens_per_pack=budget), expected, atol=1e-8, rtol=0)
    assert went_separate == (["separate_log_probs", "separate_next_logits"] if slow else [])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", ["llama", "mistral with a longer window", "llama with lora"])
def test_gradients(name: str, checkpointing: bool) -> None:
    """Relative 1e-6 of each tensor's norm, of a sum of the tokens with different weights."""
    model: nn.Module = mistral(21) if "mistral" in name else llama()
    if "lora" in name:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)).double()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
        model.train()
    packs = text_packs(longest=20)
    gradients = []
    packed = collate(packs, pad=0)
    for tokens in (branch_log_probs(model, packed, max_tokens_per_pack=5).tokens, by_hand_log_probs(model, None, packs)):
        model.zero_grad()
        (torch.linspace(0.5, 2, len(tokens), dtype=torch.float64) * tokens).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[1]
    assert all(("lora" in n) == ("lora" in name) for n in gradients[0])
    for n, expected in gradients[1].items():
        assert expected.norm() > 1e-3
        assert (gradients[0][n] - expected).norm() <= 1e-6 * expected.norm(), n


def test_samples_beyond_a_sliding_window() -> None:
    """Prompts of 11, 4 and 10 tokens, 12 new ones and a window of 18: against the argmax after one plain sequence at a time."""
    model, prompts = mistral(18), [p.prefix for p in text_packs()]
    assert choose_way(model) == "packed"
    found = sample_branches(model, prompts, [[1]] * 3, temperature=0, max_new_tokens=12, pad=0, stop=set(), inputs={})
    beyond_matters = False
    for prompt, (answer,) in zip(prompts, found):
        assert len(answer) == 12
        for t, token in enumerate(answer):
            with torch.no_grad():
                assert token == by_hand(model, None, prompt, answer[:t], {})[-1].argmax()
                beyond_matters |= bool(token != by_hand(mistral(None), None, prompt, answer[:t], {})[-1].argmax())
    assert beyond_matters


@pytest.mark.parametrize(("window", "generates"), [(23, False), (22, True)])
def test_samples_use_one_cache_up_to_the_window(window: int, generates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 11 tokens with 12 new ones. A cache that every sample adds to grows beyond 23, but no sample does."""
    model, prompt = mistral(window), text_packs()[0].prefix
    choose_way(model)
    called = []
    original = model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: called.append(1) or original(**kwargs))
    seeds = [[4, 5, 6, 7]]
    found = sample_branches(model, [prompt], seeds, temperature=1.0, max_new_tokens=12, pad=0, stop=set(), inputs={})
    assert bool(called) == generates
    assert found == sample_branches(mistral(None), [prompt], seeds, temperature=1.0, max_new_tokens=12, pad=0, stop=set(), inputs={})


def test_eager_attention_is_packed(went_separate: list[str]) -> None:
    model = llama().float()
    model.set_attn_implementation("eager")
    packs = text_packs()
    with torch.no_grad():
        expected = by_hand_log_probs(model, None, packs)
        assert choose_way(model) == "packed"
        went_separate.clear()
        for budget in (None, 6):
            found = branch_log_probs(model, collate(packs, pad=0), max_tokens_per_pack=budget).tokens
            assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.config._attn_implementation == "eager" and not went_separate


@pytest.mark.parametrize("name", ["llama", "qwen2.5-vl"])
def test_attention_without_a_mask_is_separate(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """As for flash attention, which isn't installed here: only the answer and its reason, on the language model's attention."""
    model = llama() if name == "llama" else drawn(FAMILIES[name].build())
    text = model.config.get_text_config()
    text._attn_implementation = "flash_attention_2"
    assert choose_way(model) == "separate"
    assert "'flash_attention_2' takes no mask" in caplog.text and "sdpa does" in caplog.text


def test_multimodal_positions_that_a_model_does_not_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(FAMILIES["qwen2.5-vl"].build())
    monkeypatch.setattr(type(model.model), "get_rope_index", None)
    assert choose_way(model) == "separate"


def test_the_reason_is_said_once_a_model(caplog: pytest.LogCaptureFixture) -> None:
    first, second = causal("bloom", **SMALL, n_head=4), causal("bloom", **SMALL, n_head=4)
    packed = collate([Pack([5, 6], [[7, 8]])], pad=0)
    for _ in range(2):
        branch_log_probs(first, packed)
        next_token_probs(first, packed, [5])
        choose_way(first)
    assert len(caplog.records) == 1
    message = caplog.text
    assert "BloomForCausalLM" in message and "slower" in message
    choose_way(second)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("kind", ["mllama", "t5"])
def test_models_that_read_images_or_prompts_elsewhere_are_refused(kind: str) -> None:
    if kind == "mllama":
        from transformers import MllamaConfig, MllamaForConditionalGeneration
        from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

        vision = MllamaVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_global_layers=1, attention_heads=2, image_size=16, patch_size=4,
            vision_output_dim=64, intermediate_layers_indices=[0],
        )  # fmt: skip
        text = MllamaTextConfig(**TEXT, cross_attention_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 1e4})
        model: PreTrainedModel = MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text))
    else:
        from transformers import T5Config, T5ForConditionalGeneration

        model = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))
    with pytest.raises(UserError, match=type(model).__name__):
        choose_way(model)
    with pytest.raises(UserError):
        branch_log_probs(model, collate([Pack([5, 6], [[7, 8]])], pad=0))


class Wrapped(nn.Module):
    """What DDP and DeepSpeed look like: calls go through, anything else is on ``module``."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("peft", [False, True], ids=["", "peft"])
@pytest.mark.parametrize("name", FAMILIES)
def test_wrapped_models(name: str, peft: bool) -> None:
    """The numbers are the bare model's, and the forward pass goes through the wrapper, where gradients are synchronised."""
    family = FAMILIES[name]
    model: nn.Module = drawn(family.build())
    packs, images = family.packs()
    if peft:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=r".*(language|text)_model.*\.(q_proj|down_proj)", init_lora_weights=False)
        ).double()
    wrapped = Wrapped(model)
    with torch.no_grad():
        expected = by_hand_log_probs(model, family, packs[:1], images[:1])
        assert choose_way(wrapped) == family.way
        before = wrapped.calls
        for budget in (None, 5):
            found = branch_log_probs(wrapped, collate(packs[:1], pad=0), max_tokens_per_pack=budget, **images[0]).tokens
            assert_close(found, expected, atol=1e-8, rtol=0)
    assert wrapped.calls - before >= (3 if family.way == "packed" else 2)


def test_the_trial_leaves_no_trace() -> None:
    """Modules in training stay so, the others too, and nothing random was drawn; dropout doesn't disturb it."""
    model = llama(attention_dropout=0.5)
    model.train()
    model.lm_head.eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    assert choose_way(model) == "packed"
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_in_lower_precision(dtype: torch.dtype) -> None:
    assert choose_way(llama().to(dtype)) == "packed"
    assert choose_way(drawn(WithoutPositions(LlamaConfig(**TEXT))).to(dtype)) == "separate"


def test_a_type_id_that_can_not_be_made_is_refused() -> None:
    model = drawn(FAMILIES["gemma3"].build())
    model.config.image_token_id = None
    with pytest.raises(UserError, match="image_token_id"):
        type_ids(model, torch.tensor([[5, 60]]), torch.tensor([[0, 0]]))


def test_images_of_packs() -> None:
    """Two images of 2 x 4 and 2 x 2 patches, by grids; rows that are one a pack; and what can't be told apart."""
    patches, grids = torch.arange(12)[:, None], torch.tensor([[1, 2, 4], [1, 2, 2]])
    first, second = images_of_packs({"pixel_values": patches, "image_grid_thw": grids}, 2)
    assert first["pixel_values"].flatten().tolist() == list(range(8)) and second["pixel_values"].flatten().tolist() == [8, 9, 10, 11]
    assert first["image_grid_thw"].tolist() == [[1, 2, 4]] and second["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert [i["pixel_values"].tolist() for i in images_of_packs({"pixel_values": torch.tensor([[1], [2]])}, 2)] == [[[1]], [[2]]]
    assert images_of_packs({"pixel_values": patches}, 1)[0]["pixel_values"] is patches
    with pytest.raises(UserError, match=r"pixel_values \(12, 1\)"):
        images_of_packs({"pixel_values": patches}, 2)


def test_the_separate_way_with_images_in_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's patches of all images in one tensor, taken apart for each branch; also over several forward passes."""
    family = FAMILIES["qwen2.5-vl"]
    model, (packs, images) = drawn(family.build()), family.packs()
    model._branching_way = "separate"
    inputs = {name: torch.cat([i[name] for i in images]) for name in images[0]}
    with torch.no_grad():
        expected = by_hand_log_probs(model, family, packs, images)
        for budget in (8192, 40, 1):
            monkeypatch.setattr(separate, "_BUDGET", budget)
            assert_close(branch_log_probs(model, collate(packs, pad=0), **inputs).tokens, expected, atol=1e-8, rtol=0)
            probs = next_token_probs(model, collate(packs, pad=0), [5, 17], **inputs)
            assert_close(probs, by_hand_next(model, family, packs, images)[:, [5, 17]], atol=1e-8, rtol=0)


@pytest.mark.parametrize(("way", "budget"), [("packed", None), ("packed", 1), ("separate", None)])
@pytest.mark.parametrize("lengths", [[[0, 3], [2]], [[], [2]], [[0], [0]], [[]]], ids=str)
@torch.no_grad()
def test_empty_branches_and_packs_without_branches(way: str, budget: int | None, lengths: list[list[int]]) -> None:
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
        assert next_token_probs(model, collate(packs, pad=0), [5, 6], max_tokens_per_pack=budget).shape == (len(found.counts), 2)
