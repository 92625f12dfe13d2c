"""Which way a model is computed, said once, kept on the model, the same under wrappers."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlaifv_kedro.branching import (
    Pack,
    branch_log_probs,
    choose_way,
    collate,
    copied,
    next_token_probs,
    scoring,
)
from rlaifv_kedro.branching.family import type_ids
from rlaifv_kedro.errors import UserError
from tiny_families import FAMILIES, TEXT, by_hand_log_probs, causal, drawn, llama, text_packs, together

BLOOM = dict(vocab_size=64, bos_token_id=1, eos_token_id=2, hidden_size=32, num_hidden_layers=2, n_head=4)


def test_eager_attention_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama().float()
    model.set_attn_implementation("eager")
    packs = text_packs()
    with torch.no_grad():
        expected = by_hand_log_probs(model, None, packs)
        assert choose_way(model) == "packed"
        monkeypatch.setattr(scoring, "separate_log_probs", None)  # the trial was its last use
        for budget in (None, 6):
            found = branch_log_probs(model, collate(packs, pad=0), max_tokens_per_pack=budget).tokens
            assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["llama", "qwen2.5-vl"])
def test_attention_without_a_mask_is_separate(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """As for flash attention, which isn't installed here: only the answer and its reason, on the language
    model's attention. Where it is installed, the trial of copying decides.
    """
    model = llama() if name == "llama" else drawn(FAMILIES[name].build())
    text = model.config.get_text_config()
    text._attn_implementation = "flash_attention_2"
    assert choose_way(model) == "separate"
    assert "'flash_attention_2' takes no mask" in caplog.text and "sdpa does" in caplog.text


def test_multimodal_positions_that_a_model_does_not_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a state copied: text after a text would get the positions after an image seen before."""
    model = drawn(FAMILIES["qwen2.5-vl"].build())
    monkeypatch.setattr(type(model.model), "get_rope_index", None)
    assert choose_way(model) == "separate"


@pytest.mark.parametrize("family", ["mamba", "bloom"])
def test_the_reason_is_said_once_a_model(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rlaifv_kedro")
    options = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8)
    build = lambda: causal("bloom", **BLOOM) if family == "bloom" else causal("mamba", **options)  # noqa: E731
    first, second = build(), build()
    packed = collate([Pack([5, 6], [[7, 8]])], pad=0)
    for _ in range(2):
        branch_log_probs(first, packed)
        with torch.no_grad():
            branch_log_probs(first, packed)
        next_token_probs(first, packed, [5])
        choose_way(first)
    records = [r for r in caplog.records if r.name.startswith("rlaifv_kedro")]
    assert len(records) == 1
    message = records[0].getMessage()
    assert type(first).__name__ in message and ("copied" if family == "bloom" else "slower") in message
    choose_way(second)
    assert len([r for r in caplog.records if r.name.startswith("rlaifv_kedro")]) == 2


class Restarting(LlamaForCausalLM):
    """Begins anew where more than one token follows a cache, as some models with recurrent layers do."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: object | None = None,
        **kwargs: object,
    ) -> object:
        if attention_mask is not None and attention_mask.dim() == 4:
            raise ValueError("no mask of four dimensions")
        if past_key_values is not None and past_key_values.get_seq_length() and input_ids.shape[1] > 1:
            past_key_values = DynamicCache()
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )


class Mixing(Restarting):
    """Goes on from its cache, but every row from the first row's."""

    def forward(self, past_key_values: object | None = None, **kwargs: object) -> object:
        if past_key_values is not None and past_key_values.get_seq_length():
            for layer in past_key_values.layers:
                layer.keys[1:] = layer.keys[:1].roll(1, 2)
        return LlamaForCausalLM.forward(self, past_key_values=past_key_values, **kwargs)


@pytest.mark.parametrize("kind", [Restarting, Mixing])
def test_a_cache_that_can_not_be_copied_is_found(
    kind: type[LlamaForCausalLM], caplog: pytest.LogCaptureFixture
) -> None:
    """By the trial: such a model is computed the slow way, and rightly."""
    model, packs = drawn(kind(LlamaConfig(**TEXT))), text_packs()
    packed = collate(packs, pad=0)
    if kind is Mixing:
        model._is_stateful = True  # packed, it would be right
    assert choose_way(model) == "separate"
    assert "many times slower" in caplog.text
    with torch.no_grad():
        found = branch_log_probs(model, packed).tokens
    assert_close(found, by_hand_log_probs(model, None, packs), atol=1e-6, rtol=0)


def test_a_model_that_goes_wrong_after_an_image_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial with text doesn't show it, the one with the first image does; texts are still copied."""
    family = FAMILIES["qwen3.5"]
    model, (packs, images) = drawn(family.build()), family.packs()
    right = copied.spatial_positions

    def without_offset(*args: object) -> object:
        found = right(*args)
        return found if found is None else (found[0], found[1] * 0)

    monkeypatch.setattr(copied, "spatial_positions", without_offset)
    called = []
    original = scoring.copied_log_probs
    monkeypatch.setattr(
        scoring, "copied_log_probs", lambda *args, **kwargs: called.append(1) or original(*args, **kwargs)
    )
    assert choose_way(model) == "copied"
    with torch.no_grad():
        found = branch_log_probs(model, collate(packs, pad=0), **together(images)).tokens
        assert_close(found, by_hand_log_probs(model, family, packs, images), atol=1e-8, rtol=0)
        assert not called and caplog.text.count("can't be copied") == 1
        texts = text_packs()
        found = branch_log_probs(model, collate(texts, pad=0)).tokens
        assert_close(found, by_hand_log_probs(model, family, texts), atol=family.tolerance, rtol=0)
    assert called


@pytest.mark.parametrize("kind", ["mllama", "t5"])
def test_models_that_read_images_or_prompts_elsewhere_are_refused(kind: str) -> None:
    if kind == "mllama":
        from transformers import MllamaConfig, MllamaForConditionalGeneration
        from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

        vision = MllamaVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            image_size=16,
            patch_size=4,
            vision_output_dim=64,
            intermediate_layers_indices=[0],
        )
        text = MllamaTextConfig(
            **TEXT, cross_attention_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 1e4}
        )
        model: PreTrainedModel = MllamaForConditionalGeneration(
            MllamaConfig(vision_config=vision, text_config=text)
        )
    else:
        from transformers import T5Config, T5ForConditionalGeneration

        model = T5ForConditionalGeneration(
            T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        )
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
    """The numbers are the bare model's, and the forward pass goes through the wrapper, where gradients are
    synchronised.
    """
    family = FAMILIES[name]
    model: nn.Module = drawn(family.build())
    packs, images = family.packs()
    if peft:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(
            model,
            LoraConfig(
                r=4, target_modules=r".*(language|text)_model.*\.(q_proj|down_proj)", init_lora_weights=False
            ),
        ).double()
    wrapped = Wrapped(model)
    with torch.no_grad():
        expected = by_hand_log_probs(model, family, packs[:1], images[:1])
        assert choose_way(wrapped) == family.way
        before = wrapped.calls
        for budget in (None, 5):
            found = branch_log_probs(
                wrapped, collate(packs[:1], pad=0), max_tokens_per_pack=budget, **images[0]
            ).tokens
            assert_close(found, expected, atol=family.tolerance, rtol=0)
    assert wrapped.calls - before >= (3 if family.way == "packed" else 2)


def test_the_trial_leaves_no_trace() -> None:
    """Modules in training stay so, the others too, and nothing random was drawn; dropout doesn't disturb
    it.
    """
    model = llama(attention_dropout=0.5)
    model.train()
    model.lm_head.eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    assert choose_way(model) == "packed"
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.grad is not None for p in model.parameters())


def test_a_type_id_that_can_not_be_made_is_refused() -> None:
    model = drawn(FAMILIES["gemma3"].build())
    model.config.image_token_id = None
    with pytest.raises(UserError, match="image_token_id"):
        type_ids(model, torch.tensor([[5, 60]]), torch.tensor([[0, 0]]))


def test_a_family_with_experts_for_images_is_right_or_refused() -> None:
    """Ernie 4.5 VL routes image tokens to experts of their own by ``moe_mm_token_type_ids``, which its
    processor makes beside the other type ids. Without them the numbers are off by half a nat. In float32: its
    grouped matrix products know no float64.
    """
    from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    experts = dict(
        moe_intermediate_size=[16, 16], moe_num_experts=4, moe_k=2, mlp_layer_types=["sparse", "dense"]
    )
    vision = dict(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=4, spatial_merge_size=2
    )
    text = dict(**TEXT, **experts, rope_parameters=rope)
    config = Ernie4_5_VLMoeConfig(
        vision_config=vision, text_config=text, image_token_id=60, video_token_id=61
    )
    model = drawn(Ernie4_5_VLMoeForConditionalGeneration(config)).float()
    packs = [Pack([1, 7, 60, 60, 60, 60, 9], [[8, 9, 10], [11]])]
    image = {
        "pixel_values": torch.randn(16, 3 * 16, generator=torch.Generator().manual_seed(0)),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }
    images_are_1 = FAMILIES["qwen2.5-vl"].types
    family = replace(
        FAMILIES["qwen2.5-vl"],
        types=lambda ids, prompt: {**images_are_1(ids, prompt), "moe_mm_token_type_ids": (ids == 60).long()},
    )
    with torch.no_grad():
        expected = by_hand_log_probs(model, family, packs, [image])
        assert (
            expected - by_hand_log_probs(model, FAMILIES["qwen2.5-vl"], packs, [image])
        ).abs().max() > 1e-3
        try:
            found = branch_log_probs(model, collate(packs, pad=0), **image).tokens
        except UserError:
            return
    assert_close(found, expected, atol=1e-5, rtol=0)
