"""Text LLMs in this process: any ``AutoModelForCausalLM`` with its tokenizer's chat template, or a
multimodal LLM used without an image.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError

from rlaifv_kedro.branching import choose_way
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.models.encoding import FIXED_DATE
from rlaifv_kedro.models.interface import Answer, Decoding, Heard
from rlaifv_kedro.models.loading import base_of, folder_of, load_model, torch_device

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

    @torch.no_grad()
    def complete(
        self, chats: Sequence[Chat], seeds: Sequence[int], decoding: Decoding, heard: Heard | None = None
    ) -> list[Answer]:
        """See :class:`rlaifv_kedro.models.TextModel`. A chat too long for the model gets an ``Answer.error``:
        nothing is cut off. The answers of a forward pass are heard together.
        """
        prompts = [self.encoder.prompt(chat) for chat in chats]
        answers = [self._too_long(len(prompt), decoding) for prompt in prompts]
        tell = heard or (lambda index, answer: None)
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
        context = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
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
    """Token ids of chats by a model's own chat template, with thinking switched off where the template has
    the switch, and without today's date, which some write (Llama 3.2, Mistral Small, SmolLM3): a run that
    goes on tomorrow must ask the same.

    Raises:
        UserError: There is no chat template, or it has mistakes.
    """

    def __init__(self, processor: "PreTrainedTokenizerBase | ProcessorMixin", where: str):
        template = getattr(processor, "chat_template", None)
        template = template.get("default") if isinstance(template, dict) else template
        if not template:
            raise UserError(
                f"{where}: the tokenizer has no chat template. Add a chat_template.jinja beside its files."
            )
        self.processor, self.where = processor, where
        self.tokenizer: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
        self.multimodal = self.tokenizer is not processor
        self.template = (FIXED_DATE if "strftime_now" in template else "") + template
        self.options = {"enable_thinking": False} if "enable_thinking" in template else {}
        self.takes_system = self._takes_system()
        self.end_ids = {self.tokenizer.eos_token_id, self._end_of_turn()}
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self.pad_id: int = next(i for i in known if i is not None)

    def prompt(self, chat: Chat) -> list[int]:
        """Ids of a chat up to where the reply begins.

        Raises:
            UserError: The template refuses the chat.
        """
        if not self.takes_system and len(chat) > 1 and chat[0]["role"] == "system":
            system, first, *others = chat
            chat = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]
        return self._ids(self._text(chat, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        """As transformers does: a tokenizer's template writes every special token itself, a processor's
        leaves the first to its tokenizer, unless it has written it. So it is never there twice.
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
        try:
            return self.processor.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, **options, **self.options
            )
        except TemplateError as error:
            roles = ", ".join(m["role"] for m in chat)
            raise UserError(
                f"{self.where}: its chat template can't write messages of {roles}: {error}"
            ) from error

    def _takes_system(self) -> bool:
        """Whether the template writes a system message, neither refused (Gemma's), nor left out, nor as if
        the assistant had said it.
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
        """The token that the template ends an answer with, if it is a special one. Generation settings of
        fine-tuned models often don't name it (Llama 3's ``<|eot_id|>``), and then a reply goes on with
        invented turns up to the limit.
        """
        text = self._text([{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}])
        after = self.tokenizer(text.rpartition(_MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
        return after[0] if after and after[0] in self.tokenizer.added_tokens_decoder else None


class LoadingOptions(TypedDict, total=False):
    """What :class:`rlaifv_kedro.params.ModelParams` may say of a model in this process."""

    device_map: str | None
    attn_implementation: str
    adapter: str | Path | None
    chat_template: str | Path | None
    trust_remote_code: bool


def load_text_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    batch_size: int = 8,
    **options: Unpack[LoadingOptions],
) -> TransformersText:
    """Load a splitter or judge; LoRA adapters are merged into the checkpoint they name.

    Args:
        path: Folder of a Hugging Face checkpoint with its tokenizer, or of LoRA adapters. A multimodal LLM
            will do: it is asked without an image, and loaded by :func:`rlaifv_kedro.models.load_model`, which
            then gets the options.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` takes a GPU if there is one.
        batch_size: See :class:`TransformersText`.
        options: ``device_map``: ``auto`` spreads the model over the GPUs, whatever ``device`` says.
            ``adapter``: folder of LoRA adapters for the checkpoint. ``chat_template``: file with one, instead
            of the checkpoint's. ``trust_remote_code``: run code that comes with the weights.

    Raises:
        UserError: There is no such device; the folder is no checkpoint, or a file of it is missing or
            damaged; there is no chat template.
    """
    chosen = torch_device(device)
    folder = folder_of(path)
    own_adapter = folder / "adapter_config.json"
    weights = base_of(own_adapter) if own_adapter.is_file() else folder
    if not (weights / "config.json").is_file():
        raise UserError(
            f"{weights} is no checkpoint: it has no config.json. Give the folder that save_pretrained wrote."
        )
    if _is_multimodal(weights / "config.json", options.get("trust_remote_code", False)):
        loaded = load_model(folder, dtype=dtype, device=device, batch_size=batch_size, **options)
        return TransformersText(loaded.module, loaded.processor, str(folder), batch_size)
    try:
        module, tokenizer = _load_text(folder, weights, dtype, options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: can't load the checkpoint: {first_line(error)}") from error
    return TransformersText(
        module if options.get("device_map") else module.to(chosen), tokenizer, str(folder), batch_size
    )


def _load_text(
    folder: Path, weights: Path, dtype: str, options: LoadingOptions
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    remote = options.get("trust_remote_code", False)
    module, loaded = AutoModelForCausalLM.from_pretrained(
        weights,
        dtype=getattr(torch, dtype),
        attn_implementation=options.get("attn_implementation", "sdpa"),
        device_map=options.get("device_map"),
        trust_remote_code=remote,
        output_loading_info=True,
    )
    if loaded["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise ValueError(f"the weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
    for adapter in (folder if folder != weights else None, options.get("adapter")):
        if adapter is not None:
            from peft import PeftModel

            module = PeftModel.from_pretrained(module, adapter).merge_and_unload()
    own = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder if own else weights, trust_remote_code=remote)
    if set(tokenizer.get_vocab().values()) <= set(
        tokenizer.added_tokens_decoder
    ):  # what transformers makes of a class without its files
        raise ValueError("the tokenizer's files are missing (tokenizer.json or tokenizer.model)")
    if options.get("chat_template") is not None:
        tokenizer.chat_template = Path(options["chat_template"]).read_text(encoding="utf-8")
    return module, tokenizer


def _is_multimodal(config: Path, trust_remote_code: bool) -> bool:
    """Whether a checkpoint is one for :func:`rlaifv_kedro.models.load_model`: everything but the text LLMs
    that transformers knows, or that bring their code along.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        kind, code = described.get("model_type"), described.get("auto_map") or {}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{config} is not a JSON object ({error}). Copy it anew from where the checkpoint was published."
        ) from error
    text = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (trust_remote_code and "AutoModelForCausalLM" in code)
    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or not text
