"""From chats without pictures to the token ids of a model's own chat template, and back."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.encoding import cleaner_of, read_answer, template_options
from rlaifv_kedro.models.interface import Answer, Decoding
from rlaifv_kedro.models.loading_errors import checkpoint_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

Chat = Sequence[Mapping[str, str]]
_MARK = "a1b2c3"  # a text that no template writes itself


class TextEncoder:
    """Token ids of chats, by a model's own chat template.

    Thinking is switched off where the template has the switch. Today's date, which some write (Llama 3.2,
    Mistral Small, SmolLM3), is replaced by a fixed one: a run that goes on tomorrow must ask the same.

    Args:
        processor: A tokenizer, or the processor of a multimodal LLM.
        ends: Token ids that end a reply, beside the tokenizer's and the template's.
        context: Most tokens of a chat with its reply; None: no limit is known.

    Raises:
        UserError: There is no chat template, or it has mistakes.
    """

    def __init__(
        self,
        processor: "PreTrainedTokenizerBase | ProcessorMixin",
        where: str,
        ends: Collection[int] = (),
        context: int | None = None,
    ):
        self.processor, self.where = processor, where
        self.tokenizer: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
        self.multimodal = self.tokenizer is not processor
        self.clean = cleaner_of(self.tokenizer, processor)
        self.template = template_options(processor, f"{where}: the tokenizer")
        self.takes_system = self._takes_system()
        ends = {*ends, self.tokenizer.eos_token_id, self._end_of_turn()}
        self.ends, self.context = {token for token in ends if token is not None}, context
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

    def answer(self, ids: list[int], prompt_tokens: int) -> Answer:
        """What the ids of a reply say."""
        return read_answer(self.tokenizer, self.ends, ids, prompt_tokens)

    def too_long(self, prompt_tokens: int, decoding: Decoding) -> Answer | None:
        """The answer to a chat that leaves no room for the longest reply; None if it does."""
        if self.context is None or prompt_tokens + decoding.max_new_tokens <= self.context:
            return None
        why = (
            f"the prompt's {prompt_tokens} tokens and a reply of up to {decoding.max_new_tokens} don't fit "
            f"into the model's {self.context}"
        )
        return Answer("", 0, "error", why)

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
            return self.processor.apply_chat_template(messages, tokenize=False, **options, **self.template)

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
