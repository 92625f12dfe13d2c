"""Text LLMs in this process.

Any ``AutoModelForCausalLM`` with its tokenizer's chat template will do, or a multimodal LLM used without an
image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching import choose_way
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.models.adapters import merge_adapter
from rlaifv_kedro.models.backends.room import context_of
from rlaifv_kedro.models.backends.text_encoding import Chat, TextEncoder
from rlaifv_kedro.models.encoding import ends_of
from rlaifv_kedro.models.finite import watch_numbers
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.interface import Answer, Decoding, OnAnswer
from rlaifv_kedro.models.loading import (
    DAMAGED,
    Loading,
    adapters_of,
    generation_config_of,
    load_encoder,
    load_model,
    torch_device,
)
from rlaifv_kedro.models.loading_errors import checkpoint_errors, refuse_wrong_names
from rlaifv_kedro.models.processors import named_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


class TransformersText:
    """See :class:`rlaifv_kedro.models.TextModel`.

    Args:
        processor: A tokenizer, or the processor of a multimodal LLM.
        where: Names the model in errors.
        batch_size: Chats a forward pass. It changes the speed and, at most, the last bits of a probability.
    """

    def __init__(
        self,
        module: "PreTrainedModel",
        processor: "PreTrainedTokenizerBase | ProcessorMixin",
        where: str,
        batch_size: int = 8,
    ):
        self.module, self.batch_size = module.eval(), batch_size
        ends, context = ends_of(module.generation_config), context_of(module.config)
        self.encoder = TextEncoder(processor, where, ends, context)
        choose_way(module)
        watch_numbers(module, where)

    @torch.no_grad()
    def complete(
        self,
        chats: Sequence[Chat],
        seeds: Sequence[int],
        decoding: Decoding,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """See :class:`rlaifv_kedro.models.TextModel`.

        A chat too long for the model gets an ``Answer.error``: nothing is cut off. ``on_answer`` is
        called for the answers of a forward pass together.
        """
        prompts = [self.encoder.prompt(chat) for chat in chats]
        answers = [self.encoder.too_long(len(prompt), decoding) for prompt in prompts]
        tell = on_answer or (lambda index, answer: None)
        for i, answer in enumerate(answers):
            if answer is not None:
                tell(i, answer)
        # Prompts of like length share a batch, the longest first: little padding, and memory that doesn't
        # suffice is found out at once.
        asked = sorted(
            (i for i, answer in enumerate(answers) if answer is None), key=lambda i: -len(prompts[i])
        )
        settings = SamplingSettings(
            **vars(decoding),
            pad=self.encoder.pad_id,
            stop=self.encoder.ends,
            suppress=self.module.generation_config.suppress_tokens or (),
        )
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            own = [[seeds[i]] for i in part]
            replies = sample_branches(self.module, [prompts[i] for i in part], own, settings, inputs={})
            for i, (ids,) in zip(part, replies):
                answers[i] = self.encoder.answer(ids, len(prompts[i]))
                tell(i, answers[i])
        return answers


def load_text_model(path: str | Path, loading: Loading | None = None, **changes: Any) -> TransformersText:
    """Load a splitter or judge; LoRA adapters are merged into the checkpoint they name.

    Args:
        path: Folder of a Hugging Face checkpoint with its tokenizer, or of LoRA adapters. A multimodal LLM
            will do: it is asked without an image, and loaded by :func:`rlaifv_kedro.models.load_model`.
        changes: Fields of :class:`rlaifv_kedro.models.loading.Loading` that are to be others.

    Raises:
        UserError: There is no such device; the folder is no checkpoint, or a file of it is missing or
            damaged; there is no chat template.
    """
    loading = replace(loading or Loading(), **changes)
    device = torch_device(loading.device)
    given = CheckpointFolder(folder_of(path))
    whole = given.with_weights()
    batch_size = loading.batch_size or 8
    if _is_multimodal(whole.config, loading.trust_remote_code):
        loaded = load_model(given.path, loading)
        return TransformersText(loaded.module, loaded.processor, str(given.path), batch_size)
    whole.refuse_damaged(DAMAGED)
    with checkpoint_errors(given.path):
        module, tokenizer = _load_text(given, whole, loading)
    placed = module if loading.device_map else module.to(device)
    return TransformersText(placed, tokenizer, str(given.path), batch_size)


def _load_text(
    given: CheckpointFolder, whole: CheckpointFolder, loading: Loading
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The module, adapters merged, and its tokenizer.

    Args:
        given: Holds adapters, or is the same as ``whole``.
    """
    from transformers import AutoModelForCausalLM

    module, loaded = AutoModelForCausalLM.from_pretrained(
        whole.path,
        dtype=getattr(torch, loading.dtype),
        attn_implementation=loading.attn_implementation,
        device_map=loading.device_map,
        trust_remote_code=loading.trust_remote_code,
        output_loading_info=True,
    )
    refuse_wrong_names(loaded, whole.path)
    for adapter in adapters_of(given, loading):
        module = merge_adapter(module, adapter)
    return module, _tokenizer(given, whole, loading)


def load_text_encoder(path: str | Path, loading: Loading | None = None) -> TextEncoder:
    """What writes a splitter's or judge's prompts in tokens, without reading its weights.

    Raises:
        UserError: A file of the config, processor or tokenizer is missing or damaged; there is no chat
            template.
    """
    from transformers import AutoConfig

    loading = loading or Loading()
    given = CheckpointFolder(folder_of(path))
    whole = given.with_weights()
    if _is_multimodal(whole.config, loading.trust_remote_code):
        encoder = load_encoder(path, loading)
        return TextEncoder(encoder.processor, str(path), encoder.ends, encoder.context)
    with checkpoint_errors(path):
        config = AutoConfig.from_pretrained(whole.path, trust_remote_code=loading.trust_remote_code)
        tokenizer, ends = _tokenizer(given, whole, loading), ends_of(generation_config_of(whole, config))
        return TextEncoder(tokenizer, str(path), ends, context_of(config))


def _tokenizer(
    given: CheckpointFolder, whole: CheckpointFolder, loading: Loading
) -> "PreTrainedTokenizerBase":
    """The tokenizer: adapters' own, if their folder has one, or the checkpoint's."""
    from transformers import AutoTokenizer

    own = given if given.has_any(("tokenizer_config.json",)) else whole
    tokenizer = AutoTokenizer.from_pretrained(own.path, trust_remote_code=loading.trust_remote_code)
    words = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
    if not words:  # what transformers makes of a class without its files
        raise ValueError("the tokenizer's files are missing (tokenizer.json or tokenizer.model)")
    if loading.chat_template is not None:
        tokenizer.chat_template = named_template(loading.chat_template)
    return tokenizer


def _is_multimodal(config: Mapping[str, Any], trust_remote_code: bool) -> bool:
    """Whether a checkpoint is one for :func:`rlaifv_kedro.models.load_model`.

    That is everything but the text LLMs that transformers knows, or that bring their code along.
    """
    from rlaifv_kedro.transformers_private import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind, code = config.get("model_type"), config.get("auto_map") or {}
    text = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (trust_remote_code and "AutoModelForCausalLM" in code)
    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or not text
