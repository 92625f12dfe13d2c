"""A LLaVA of half a million parameters, in ordinary Hugging Face classes.

Patch 12 of a 72 x 72 image gives 36 image tokens. All that is special is the initialisation; the checkpoint
loads with ``AutoModelForImageTextToText`` and ``AutoProcessor`` like any other LLaVA.
"""

import math
from typing import TYPE_CHECKING

from rlaifv_kedro.miniature.language import vocabulary
from rlaifv_kedro.miniature.scenes import IMAGE_SIZE
from rlaifv_kedro.transformers_private import save_as_published

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

PATCH = 12  # pixels
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
VISION_WIDTH, WIDTH = 64, 96
HEAD = 32  # the smallest width of a head for which vLLM's attention on CPUs has code (0.32)

# The answer follows the question directly: in "is there a cup" the model says yes or no right after the noun,
# where its attention to the cup's patches is. A longer tail between noun and answer costs so small a model
# accuracy.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %} <image>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %} {{ part['text'] }}{% endif %}{% "
    "endfor %}"
    "{% else %}{% generation %}{% for part in message['content'] %} {{ part['text'] }}{% endfor %}{{ "
    "eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)


def build_processor() -> "LlavaProcessor":
    """A word-level tokenizer over the miniature's vocabulary and an image processor, as a LlavaProcessor."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
    ids = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("?", "removed"), pre_tokenizers.Whitespace()]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=256,
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_resize=True,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_model(processor: "LlavaProcessor", seed: int) -> "LlavaForConditionalGeneration":
    """A freshly initialised model with tied embeddings.

    It has 3 vision layers of width 64 (2 heads) and 3 language layers of width 96 (3 heads).
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=VISION_WIDTH // HEAD,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=VISION_WIDTH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=WIDTH // HEAD,
        num_key_value_heads=WIDTH // HEAD,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    _initialise(model)
    save_as_published(model)
    return model


def _initialise(model: "LlavaForConditionalGeneration") -> None:
    """Scaled normal weights, and two starts that help grounding.

    Like attends to like, and what is attended to is copied through.
    The first is mimetic initialisation (Trockman & Kolter 2023): q = k in the first layer. For the second
    o_proj = 0.5 v_proj transposed.
    """
    import torch
    from torch import nn

    layers = 3
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name and "lm_head" not in name:
                gain = 0.8 if "vision" in name else 0.6
                if any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2")):
                    gain /= math.sqrt(2 * layers)
                nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)
        for i, layer in enumerate(model.model.language_model.layers):
            attention = layer.self_attn
            if i == 0:
                nn.init.normal_(attention.q_proj.weight, std=attention.q_proj.weight.shape[1] ** -0.5)
                attention.k_proj.weight.copy_(attention.q_proj.weight)
            nn.init.orthogonal_(attention.v_proj.weight)
            attention.o_proj.weight.copy_(0.5 * attention.v_proj.weight.T)
        nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.1)
        model.tie_weights()
