"""Tiny models with random weights of the families that the tests of branching compare, their images, and the
slow, plain way to score an answer.

The weights are drawn large enough that a wrong position or mask moves a log-prob by far more than the tests'
tolerances; the tests check that too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from rlaifv_kedro.branching import Pack

IMAGE = 60  # token id of an image's patch
SAMPLED = range(3, 60)  # ids of words: no special ones
TEXT = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
VISION = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=16,
    patch_size=4,
)

Inputs = dict[str, torch.Tensor]


@torch.no_grad()
def drawn(model: PreTrainedModel, std: float = 0.25) -> PreTrainedModel:
    """The model in float64 with its weight matrices drawn anew, so that it answers differently to
    different prompts.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=std, generator=generator)
    return model.double().eval()


def _qwen() -> PreTrainedModel:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=32,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=16,
        fullatt_block_indexes=[1],
    )
    text = dict(
        **TEXT, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


# Of Qwen3.5: linear attention with a recurrent state in the first layer, attention in the second.
_LINEAR_TEXT = dict(
    **TEXT,
    model_type="qwen3_5_text",
    head_dim=8,
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
    rope_parameters={
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 1.0,
    },
)


def _qwen3_5() -> PreTrainedModel:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=32,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=64,
    )
    config = Qwen3_5Config(
        vision_config=vision,
        text_config=_LINEAR_TEXT,
        image_token_id=IMAGE,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
    )
    return Qwen3_5ForConditionalGeneration(config)


def _qwen_image(generator: torch.Generator, i: int) -> tuple[Inputs, int]:
    """Grids of 4 x 4, 2 x 6 and 4 x 8 patches: 4, 3 and 8 tokens that take 2, 3 and 4 positions."""
    rows, columns = [(4, 4), (2, 6), (4, 8)][i % 3]
    patches = torch.randn(rows * columns, 3 * 2 * 4 * 4, generator=generator, dtype=torch.float64)
    return {
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }, rows * columns // 4


def _idefics3() -> PreTrainedModel:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config=dict(VISION), text_config=LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2
        )
    )


def _mistral3() -> PreTrainedModel:
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    config = Mistral3Config(
        vision_config=PixtralVisionConfig(**VISION, head_dim=16),
        text_config=MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return Mistral3ForConditionalGeneration(config)


def _gemma3() -> PreTrainedModel:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

    text = Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=16)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=dict(VISION), text_config=text, image_token_index=IMAGE, mm_tokens_per_image=4
        )
    )


def _paligemma() -> PreTrainedModel:
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(**{**VISION, "patch_size": 8}, vision_use_head=False)
    text = GemmaConfig(**TEXT, head_dim=8)
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=32)
    )


def _gemma4() -> PreTrainedModel:
    from transformers import (
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4TextConfig,
        Gemma4VisionConfig,
    )

    text = Gemma4TextConfig(
        **TEXT,
        head_dim=8,
        global_head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
        use_bidirectional_attention="vision",
    )
    shape = {name: value for name, value in VISION.items() if name != "image_size"}
    vision = Gemma4VisionConfig(
        **shape, num_key_value_heads=2, head_dim=16, position_embedding_size=16, pooling_kernel_size=2
    )
    tokens = dict(video_token_id=61, boi_token_id=62, eoi_token_id=63, audio_token_id=59)
    return Gemma4ForConditionalGeneration(
        Gemma4Config(
            vision_config=vision, text_config=text, image_token_id=IMAGE, audio_config=None, **tokens
        )
    )


def _gemma4_image(generator: torch.Generator, i: int) -> tuple[Inputs, int]:
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(-1)[None]
    patches = torch.randn(1, 16, 3 * 4 * 4, generator=generator, dtype=torch.float64)
    return {"pixel_values": patches, "image_position_ids": places}, 4


def _lfm2_vl() -> PreTrainedModel:
    """Convolutions over the last tokens in the first layer, attention in the second."""
    from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration

    shape = {name: value for name, value in VISION.items() if name != "image_size"}
    return Lfm2VlForConditionalGeneration(
        Lfm2VlConfig(
            vision_config=dict(**shape, model_type="siglip2_vision_model", num_patches=16),
            text_config=Lfm2Config(**TEXT, layer_types=["conv", "full_attention"]),
            image_token_id=IMAGE,
            projector_hidden_size=32,
            downsample_factor=2,
        )
    )


def _lfm2_image(generator: torch.Generator, i: int) -> tuple[Inputs, int]:
    patches = torch.randn(1, 16, 3 * 4 * 4, generator=generator, dtype=torch.float64)
    shapes = {
        "spatial_shapes": torch.tensor([[4, 4]]),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int64),
    }
    return {"pixel_values": patches, **shapes}, 4


def _minicpm_v4(version: str) -> PreTrainedModel:
    """MiniCPM-V 4.6 numbers positions as in a text, 4.7 by where a slice lies in the image."""
    import transformers

    config = getattr(transformers, f"MiniCPMV4_{version}Config")
    tokens = dict(image_token_id=IMAGE, video_token_id=61)
    if version == "7":
        tokens |= dict(image_start_id=62, image_end_id=63, slice_start_id=59, slice_end_id=58, newline_id=57)
    vision = dict(**{**VISION, "image_size": 64}, insert_layer_id=0)
    made = config(text_config=_LINEAR_TEXT, vision_config=vision, insert_layer_id=0, **tokens)
    return getattr(transformers, f"MiniCPMV4_{version}ForConditionalGeneration")(made)


def _minicpm_v4_image(generator: torch.Generator, i: int) -> tuple[Inputs, int]:
    """Grids of 4 x 4, 4 x 8 and 8 x 8 patches, side by side: 1, 2 and 4 tokens."""
    rows, columns = [(4, 4), (4, 8), (8, 8)][i % 3]
    pixels = torch.randn(1, 3, 4, rows * columns * 4, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "target_sizes": torch.tensor([[rows, columns]])}, rows * columns // 16


def _square(generator: torch.Generator, shape: tuple[int, ...] = (1, 3, 16, 16)) -> Inputs:
    return {"pixel_values": torch.randn(shape, generator=generator, dtype=torch.float64)}


@dataclass(frozen=True)
class Family:
    """How a family is built and asked by hand.

    Attributes:
        build: The model as its configuration initialises it.
        image: Inputs for the i-th image and its number of tokens.
        way: What ``choose_way`` should answer.
        types: What the family's processor says of each token: (ids (1, length), length of the prompt) to
            keyword arguments.
        before: Tokens that stand before an image.
        tolerance: Least difference that counts, where the family's own code rounds to float32.
    """

    build: Callable[[], PreTrainedModel]
    image: Callable[[torch.Generator, int], tuple[Inputs, int]]
    way: str
    types: Callable[[torch.Tensor, int], Inputs] = lambda ids, prompt: {}
    before: tuple[int, ...] = ()
    tolerance: float = 1e-8

    def packs(self) -> tuple[list[Pack], list[Inputs]]:
        """Three packs, whose prefixes have different lengths, with 4, 1 and 3 branches of 1 to 9 tokens,
        and their images.
        """
        generator = torch.Generator().manual_seed(5)

        def words(count: int) -> list[int]:
            return [SAMPLED[i] for i in torch.randint(len(SAMPLED), (count,), generator=generator)]

        packs, images = [], []
        for i, lengths in enumerate([[5, 2, 1, 9], [4], [3, 6, 2]]):
            inputs, tokens = self.image(generator, i)
            prefix = [1, *words(2), *self.before, *[IMAGE] * tokens, *words(4 - i)]
            packs.append(Pack(prefix, [words(n) for n in lengths]))
            images.append(inputs)
        return packs, images


def _images_are_1(name: str) -> Callable[[torch.Tensor, int], Inputs]:
    return lambda ids, prompt: {name: (ids == IMAGE).long()}


FAMILIES = {
    "qwen2.5-vl": Family(_qwen, _qwen_image, "packed", _images_are_1("mm_token_type_ids"), (62,)),
    "qwen3.5": Family(
        _qwen3_5, _qwen_image, "copied", _images_are_1("mm_token_type_ids"), (62,), tolerance=5e-5
    ),
    "idefics3": Family(_idefics3, lambda g, i: (_square(g, (1, 1, 3, 16, 16)), 4), "packed"),
    "mistral3": Family(
        _mistral3, lambda g, i: ({**_square(g), "image_sizes": torch.tensor([[16, 16]])}, 4), "packed"
    ),
    "gemma3": Family(_gemma3, lambda g, i: (_square(g), 4), "copied", _images_are_1("token_type_ids")),
    "paligemma": Family(
        # PaliGemmaProcessor: 0 for the prompt, which sees itself in both directions, 1 for the suffix
        _paligemma,
        lambda g, i: (_square(g), 4),
        "copied",
        lambda ids, prompt: {"token_type_ids": (torch.arange(ids.shape[1]) >= prompt)[None].long()},
    ),
}

COPIED = {
    "gemma4": Family(_gemma4, _gemma4_image, "copied", _images_are_1("mm_token_type_ids")),
    "lfm2-vl": Family(_lfm2_vl, _lfm2_image, "copied"),
    "minicpm-v 4.6": Family(
        lambda: _minicpm_v4("6"), _minicpm_v4_image, "copied", before=(62,), tolerance=5e-5
    ),
    "minicpm-v 4.7": Family(
        lambda: _minicpm_v4("7"),
        _minicpm_v4_image,
        "copied",
        _images_are_1("mm_token_type_ids"),
        (62,),
        tolerance=5e-5,
    ),
}
"""More families whose prefix's state is copied to its branches."""


def converted(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def together(images: list[Inputs], dtype: torch.dtype = torch.float64) -> Inputs:
    return converted({name: torch.cat([i[name] for i in images]) for name in images[0]}, dtype)


def by_hand(
    model: torch.nn.Module,
    family: Family | None,
    prefix: list[int],
    branch: list[int],
    image: Inputs,
    prompt: int | None = None,
) -> torch.Tensor:
    """Logits (length, vocabulary) of one sequence as transformers' users would compute them: unpadded, with
    the model's own mask and positions.

    Args:
        prompt: Tokens that are the prompt, where the family sees prompt and answer differently; by default
            the prefix.
    """
    ids = torch.tensor([prefix + branch])
    types = family.types(ids, len(prefix) if prompt is None else prompt) if family else {}
    return model(input_ids=ids, **types, **converted(image, next(model.parameters()).dtype)).logits[0]


def by_hand_log_probs(
    model: torch.nn.Module, family: Family | None, packs: list[Pack], images: list[Inputs] | None = None
) -> torch.Tensor:
    """One log-prob for every token of every branch, in order: (tokens,)."""
    found = []
    for pack, image in zip(packs, images or [{}] * len(packs)):
        for branch in pack.branches:
            log_probs = by_hand(model, family, pack.prefix, branch, image).log_softmax(-1)
            start = len(pack.prefix) - 1
            found += [log_probs[start + i, token] for i, token in enumerate(branch)]
    return torch.stack(found)


def by_hand_next(
    model: torch.nn.Module, family: Family | None, packs: list[Pack], images: list[Inputs] | None = None
) -> torch.Tensor:
    """Probabilities after every branch, which is part of the prompt: (branches, vocabulary)."""
    found = []
    for pack, image in zip(packs, images or [{}] * len(packs)):
        for branch in pack.branches:
            found.append(
                by_hand(model, family, pack.prefix, branch, image, len(pack.prefix) + len(branch))[
                    -1
                ].softmax(-1)
            )
    return torch.stack(found)


def causal(model_type: str, **options: object) -> PreTrainedModel:
    """A language model by its type's name."""
    return drawn(AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options)))


def llama(**options: object) -> PreTrainedModel:
    return drawn(LlamaForCausalLM(LlamaConfig(**TEXT, **options)))


def mistral(window: int | None) -> PreTrainedModel:
    return drawn(MistralForCausalLM(MistralConfig(**TEXT, sliding_window=window)))


def text_packs(longest: int = 20) -> list[Pack]:
    """Three packs of words; the longest sequence, of the first pack, has so many tokens."""
    generator = torch.Generator().manual_seed(6)

    def words(count: int) -> list[int]:
        return [SAMPLED[i] for i in torch.randint(len(SAMPLED), (count,), generator=generator)]

    return [
        Pack(words(longest - 9), [words(n) for n in (9, 4, 1, 7)]),
        Pack(words(4), [words(5)]),
        Pack(words(longest - 10), [words(n) for n in (3, 8, 6)]),
    ]
