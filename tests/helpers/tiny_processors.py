"""Processors of each kind of tokenizer, without models: SentencePiece's, bytes alone, byte-level BPE."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rlaifv_kedro.models.llava.processor import llava_processor
from rlaifv_kedro.models.minicpm_v.processing import MiniCPMVImageProcessor, MiniCPMVProcessor
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.omnilmm.processing import OmniLMMProcessor, omnilmm_processor
from tiny_sentencepiece import PIECES, WORDS, write_tokenizer_model

MINICPM_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<unk>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "</image>",
    "<slice>",
    "</slice>",
]
QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
# How Qwen's tokenizers cut a text before they merge: newlines that follow each other stay together.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llava(folder: Path) -> LlavaProcessor:
    """Of a LLaVA-1.5 in its original layout."""
    write_tokenizer_model(folder / "tokenizer.model")
    text = LlamaConfig(vocab_size=512, hidden_size=8, num_attention_heads=2)
    vision = CLIPVisionConfig(image_size=56, patch_size=28)
    return llava_processor(
        folder, LlavaConfig(text_config=text, vision_config=vision, image_token_index=PIECES)
    )


def omnilmm(folder: Path) -> OmniLMMProcessor:
    """Of an OmniLMM in the release's layout."""
    write_tokenizer_model(folder / "tokenizer.model")
    config = OmniLMMConfig(
        vocab_size=PIECES + 3,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=28,
        num_query=4,
    )
    return omnilmm_processor(folder, config)


def minicpm(folder: Path) -> MiniCPMVProcessor:
    """Of a MiniCPM-Llama3-V 2.5 whose tokens are bytes, and the release's special ones."""
    return MiniCPMVProcessor(
        MiniCPMVImageProcessor(scale_resolution=56, image_feature_size=4), minicpm_tokenizer()
    )


def minicpm_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of the release."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in MINICPM_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        unk_token="<unk>",
        pad_token="<|end_of_text|>",
    )


def qwen(folder: Path) -> LlavaNextProcessor:
    """A byte-level BPE cut as Qwen's is, with ChatML; the images are LLaVA-NeXT's, since Qwen's own processor
    needs torchvision.
    """
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([f"{WORDS}\n\n{WORDS}\n\n\nuser\nassistant\n"] * 20, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=[[28, 56], [56, 28]],
    )
    return LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_CHATML,
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
    )


FAMILIES = {"llava": llava, "omnilmm": omnilmm, "minicpm": minicpm, "qwen": qwen}
