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
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.adapters import merge_adapter
from rlaifv_kedro.models.backends.room import context_of
from rlaifv_kedro.models.encoding import FIXED_DATE, cleaner_of
from rlaifv_kedro.models.finite import watch_numbers
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.interface import Answer, Decoding, OnAnswer
from rlaifv_kedro.models.loading import DAMAGED, Loading, adapters_of, load_model, torch_device
from rlaifv_kedro.models.loading_errors import checkpoint_errors, refuse_wrong_names
from rlaifv_kedro.models.processors import named_template, processor_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

Chat = Sequence[Mapping[str, str]]
_MARK = "a1b2c3"  # a text that no template writes itself


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
        self.module, self.batch_size, self.encoder = module.eval(), batch_size, TextEncoder(processor, where)
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
        answers = [self._too_long(len(prompt), decoding) for prompt in prompts]
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
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            repetition_penalty=decoding.repetition_penalty,
            max_new_tokens=decoding.max_new_tokens,
            pad=self.encoder.pad_id,
            stop=self._stop_ids(),
            suppress=self.module.generation_config.suppress_tokens or (),
        )
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            own = [[seeds[i]] for i in part]
            replies = sample_branches(self.module, [prompts[i] for i in part], own, settings, inputs={})
            for i, (ids,) in zip(part, replies):
                answers[i] = self._answer(ids, len(prompts[i]))
                tell(i, answers[i])
        return answers

    def _too_long(self, tokens: int, decoding: Decoding) -> Answer | None:
        context = context_of(self.module.config)
        if context is None or tokens + decoding.max_new_tokens <= context:
            return None
        why = (
            f"the prompt's {tokens} tokens and a reply of up to {decoding.max_new_tokens} don't fit into "
            f"the model's {context}"
        )
        return Answer("", 0, "error", why)

    def _stop_ids(self) -> set[int]:
        eos = self.module.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return {i for i in (*ids, *self.encoder.end_ids) if i is not None}

    def _answer(self, ids: list[int], prompt_tokens: int) -> Answer:
        text = self.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Answer(
            text, len(ids), "stop" if ids[-1] in self._stop_ids() else "length", prompt_tokens=prompt_tokens
        )


class TextEncoder:
    """Token ids of chats, by a model's own chat template.

    Thinking is switched off where the template has the switch. Today's date, which some write (Llama 3.2,
    Mistral Small, SmolLM3), is replaced by a fixed one: a run that goes on tomorrow must ask the same.

    Raises:
        UserError: There is no chat template, or it has mistakes.
    """

    def __init__(self, processor: "PreTrainedTokenizerBase | ProcessorMixin", where: str):
        template = processor_template(processor)
        if not template:
            raise UserError(
                f"{where}: the tokenizer has no chat template. Add a chat_template.jinja beside its files."
            )
        self.processor, self.where = processor, where
        self.tokenizer: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
        self.multimodal = self.tokenizer is not processor
        self.clean = cleaner_of(self.tokenizer, processor)
        self.template = (FIXED_DATE if "strftime_now" in template else "") + template
        self.options = {"enable_thinking": False} if "enable_thinking" in template else {}
        self.takes_system = self._takes_system()
        self.end_ids = {self.tokenizer.eos_token_id, self._end_of_turn()}
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self.pad_id: int = next(i for i in known if i is not None)

    def prompt(self, chat: Chat) -> list[int]:
        """Ids of a chat up to where the reply begins, special tokens in its messages left out.

        Raises:
            UserError: The template refuses the chat.
        """
        chat = [{**message, "content": self.clean(message["content"])} for message in chat]
        if not self.takes_system and len(chat) > 1 and chat[0]["role"] == "system":
            system, first, *others = chat
            chat = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]
        return self._ids(self._text(chat, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text that the template has written.

        As in transformers, a tokenizer's template writes every special token itself, and a
        processor's leaves the first one to its tokenizer unless it has written it. So it is never
        there twice.
        """
        bos = self.tokenizer.bos_token
        return list(
            self.tokenizer(text, add_special_tokens=self.multimodal and not (bos and text.startswith(bos)))[
                "input_ids"
            ]
        )

    def _text(self, chat: Chat, **options: Any) -> str:
        # Templates of multimodal LLMs want a list of parts.
        messages = [
            {**m, "content": [{"type": "text", "text": m["content"]}] if self.multimodal else m["content"]}
            for m in chat
        ]
        roles = ", ".join(m["role"] for m in chat)
        with checkpoint_errors(self.where, f"its chat template can't write messages of {roles}"):
            return self.processor.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, **options, **self.options
            )

    def _takes_system(self) -> bool:
        """Whether the template writes a system message.

        Some refuse it (Gemma's), leave it out, or write it as if the assistant had said it.
        """
        try:
            written = self._text([{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}])
        except UserError:
            return False
        try:
            by_assistant = self._text(
                [{"role": "assistant", "content": _MARK}, {"role": "user", "content": "?"}]
            )
        except UserError:
            by_assistant = ""
        return _MARK in written and written != by_assistant

    def _end_of_turn(self) -> int | None:
        """The token that the template ends an answer with, if it is a special one.

        Generation settings of fine-tuned models often don't name it (Llama 3's ``<|eot_id|>``), and
        then a reply goes on with invented turns up to the limit.
        """
        text = self._text([{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}])
        after = self.tokenizer(text.rpartition(_MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
        return after[0] if after and after[0] in self.tokenizer.added_tokens_decoder else None


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

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
    own = given if given.has_any(("tokenizer_config.json",)) else whole
    tokenizer = AutoTokenizer.from_pretrained(own.path, trust_remote_code=loading.trust_remote_code)
    words = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
    if not words:  # what transformers makes of a class without its files
        raise ValueError("the tokenizer's files are missing (tokenizer.json or tokenizer.model)")
    if loading.chat_template is not None:
        tokenizer.chat_template = named_template(loading.chat_template)
    return module, tokenizer


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
