"""Language models without images, of many kinds: the way they are computed, log-probs, samples and
gradients against one sequence at a time.
"""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlaifv_kedro.branching import branch_log_probs, choose_way, collate, next_token_probs
from rlaifv_kedro.branching.attention import NAME
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches
from tiny_families import (
    TEXT,
    by_hand,
    by_hand_log_probs,
    by_hand_next,
    causal,
    drawn,
    llama,
    mistral,
    text_packs,
)

NO_SPECIAL = dict(vocab_size=64, bos_token_id=1, eos_token_id=2)
SMALL_GPT = dict(**NO_SPECIAL, n_embd=32, n_layer=2, n_head=4)
MIXER = dict(mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)
SMALL = dict(**NO_SPECIAL, hidden_size=32, num_hidden_layers=2)


class WithoutPositions(LlamaForCausalLM):
    """Takes positions and ignores them."""

    def forward(self, position_ids: torch.Tensor | None = None, **kwargs: object) -> object:
        return super().forward(**kwargs)


class WithoutMask(LlamaForCausalLM):
    """Takes a mask and ignores it."""

    def forward(
        self,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: object,
    ) -> object:
        return super().forward(position_ids=position_ids, **kwargs)


class Refusing(LlamaForCausalLM):
    """Fails on a mask that isn't two-dimensional."""

    def forward(
        self,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: object,
    ) -> object:
        if attention_mask is not None:
            _, _ = attention_mask.shape
        return super().forward(position_ids=position_ids, attention_mask=attention_mask, **kwargs)


# The model, its way, and words of the reason that the log gives.


TEXT_MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str, str]] = {
    "llama": (llama, "packed", ""),
    "mistral": (lambda: mistral(None), "packed", ""),
    "gpt2": (lambda: causal("gpt2", **SMALL_GPT), "packed", ""),  # learned positions
    "falcon": (
        lambda: causal("falcon", **SMALL, num_attention_heads=4, alibi=False),
        "packed",
        "",
    ),  # its own attention modules
    "falcon with alibi": (
        lambda: causal("falcon", **SMALL, num_attention_heads=4, alibi=True),
        "copied",
        "trial",
    ),
    "bloom": (lambda: causal("bloom", **SMALL, n_head=4), "copied", "positions can't be given"),
    "mpt": (
        lambda: causal("mpt", **NO_SPECIAL, d_model=32, n_layers=2, n_heads=4, expansion_ratio=2),
        "copied",
        "positions can't be given",
    ),
    "mamba": (lambda: causal("mamba", **SMALL, state_size=8), "separate", "recurrent"),
    "lfm2": (lambda: causal("lfm2", **TEXT, layer_types=["conv", "full_attention"]), "copied", "recurrent"),
    "llama4": (
        lambda: causal(
            "llama4_text",
            **TEXT,
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            attention_chunk_size=8,
        ),
        "copied",
        "chunks",
    ),
    # Beside attention, in the same layer or the next, a Mamba 2 mixer: convolutions and a recurrent state.
    "falcon-h1": (
        lambda: causal("falcon_h1", **TEXT, **MIXER, mamba_n_heads=4, mamba_d_ssm=32, head_dim=8),
        "copied",
        "recurrent",
    ),
    "granite hybrid": (
        lambda: causal(
            "granitemoehybrid",
            **TEXT,
            **MIXER,
            mamba_n_heads=8,
            layer_types=["mamba", "attention"],
            num_local_experts=0,
            shared_intermediate_size=48,
        ),
        "copied",
        "recurrent",
    ),
    "nemotron-h": (
        lambda: causal(
            "nemotron_h",
            **TEXT,
            layers_block_type=["mamba", "attention"],
            mamba_num_heads=8,
            mamba_head_dim=8,
            n_groups=1,
            ssm_state_size=8,
            head_dim=8,
        ),
        "copied",
        "recurrent",
    ),
    # Its mixer begins anew where more than one token follows a cache: found by the trial.
    "bamba": (
        lambda: causal("bamba", **TEXT, **MIXER, mamba_n_heads=8, attn_layer_indices=[1]),
        "separate",
        "recurrent",
    ),
    "recurrent gemma": (
        lambda: causal(
            "recurrent_gemma",
            **{**TEXT, "num_hidden_layers": 3},
            lru_width=32,
            attention_window_size=64,
            head_dim=8,
        ),
        "separate",
        "recurrent",
    ),
    "ignores positions": (lambda: drawn(WithoutPositions(LlamaConfig(**TEXT))), "copied", "trial"),
    "ignores the mask": (lambda: drawn(WithoutMask(LlamaConfig(**TEXT))), "copied", "trial"),
    "refuses the mask": (lambda: drawn(Refusing(LlamaConfig(**TEXT))), "copied", "trial"),
}


IN_FLOAT32 = ("mamba", "llama4", "falcon-h1", "granite hybrid", "nemotron-h", "bamba")


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The way, the reason if it isn't packed, and log-probs against one plain sequence at a time. Attention
    that isn't SDPA takes its softmax in float32, and some layers compute in it.
    """
    build, way, reason = TEXT_MODELS[name]
    model, packs = build(), text_packs()
    packed = collate(packs, pad=0)
    with torch.no_grad():
        log_probs, probs = by_hand_log_probs(model, None, packs), by_hand_next(model, None, packs)
        with caplog.at_level(logging.INFO, "rlaifv_kedro"):
            assert choose_way(model) == way
        assert [reason in r.getMessage() for r in caplog.records if r.name.startswith("rlaifv_kedro")] == (
            [True] if reason else []
        )
        tolerance = (
            1e-8 if model.config._attn_implementation in ("sdpa", NAME) and name not in IN_FLOAT32 else 1e-5
        )
        for budget in (None, 6):
            assert_close(
                branch_log_probs(model, packed, max_tokens_per_pack=budget).tokens,
                log_probs,
                atol=tolerance,
                rtol=0,
            )
            assert_close(
                next_token_probs(model, packed, [5, 17], max_tokens_per_pack=budget),
                probs[:, [5, 17]],
                atol=tolerance,
                rtol=0,
            )


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_greedy_samples_of_text_models(name: str) -> None:
    """A padded batch of prompts of 11, 4 and 10 tokens against the argmax after one plain sequence at a time.
    In float32: with float64, transformers' eager attention makes NaN of a padded row.
    """
    model = TEXT_MODELS[name][0]().float()
    prompts = [p.prefix for p in text_packs()]
    settings = SamplingSettings(temperature=0, max_new_tokens=6, pad=0, stop={2})
    found = sample_branches(model, prompts, [[1, 2]] * 3, settings, inputs={})
    for prompt, (answer, same) in zip(prompts, found):
        assert answer == same and answer
        for t, token in enumerate(answer):
            with torch.no_grad():
                assert token == by_hand(model, None, prompt, answer[:t], {})[-1].argmax()


def test_attention_to_the_last_tokens_by_index() -> None:
    """GPT-Neo's local layers count their window in places of the sequence, whatever the positions: in a pack,
    a late branch wouldn't see its prefix. A window of 24 is as long as the pack of the trial, and longer than
    the longest sequence here, so that separate sequences don't feel it.
    """
    attention = dict(attention_types=[[["global", "local"], 1]], window_size=24)
    model = causal("gpt_neo", **NO_SPECIAL, hidden_size=32, num_layers=2, num_heads=4, **attention)
    packs = text_packs(longest=20)
    assert max(map(len, packs)) > 24
    with torch.no_grad():
        expected = by_hand_log_probs(model, None, packs)
        assert_close(branch_log_probs(model, collate(packs, pad=0)).tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", ["llama", "mistral with a longer window", "llama with lora"])
def test_gradients(name: str, checkpointing: bool) -> None:
    """Relative 1e-6 of each tensor's norm, of a sum of the tokens with different weights."""
    model: nn.Module = mistral(21) if "mistral" in name else llama()
    if "lora" in name:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        ).double()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
        model.train()
    packs = text_packs(longest=20)
    gradients = []
    packed = collate(packs, pad=0)
    for tokens in (
        branch_log_probs(model, packed, max_tokens_per_pack=5).tokens,
        by_hand_log_probs(model, None, packs),
    ):
        model.zero_grad()
        (torch.linspace(0.5, 2, len(tokens), dtype=torch.float64) * tokens).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[1]
    assert all(("lora" in n) == ("lora" in name) for n in gradients[0])
    for n, expected in gradients[1].items():
        assert expected.norm() > 1e-3
        assert (gradients[0][n] - expected).norm() <= 1e-6 * expected.norm(), n


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_in_lower_precision(dtype: torch.dtype) -> None:
    assert choose_way(llama().to(dtype)) == "packed"
    assert choose_way(drawn(WithoutPositions(LlamaConfig(**TEXT))).to(dtype)) == "copied"
