"""From images, questions and answers to the token ids of a model's own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class EncodedImage:
    """What the model takes for one image (``pixel_values`` and the like, batch dimension 1), and how many image tokens stand for it."""

    inputs: dict[str, Any]
    tokens: int


class ChatEncoder:
    """Token ids of prompts and answers about one image.

    Raises:
        UserError: The processor has no chat template.
    """

    def __init__(self, processor: "ProcessorMixin", where: str):
        if not getattr(processor, "chat_template", None):
            raise UserError(f"{where}: the processor has no chat template. Add a chat_template.jinja beside its files.")
        self.processor, self.tokenizer, self.where = processor, processor.tokenizer, where
        self.image_token: str = processor.image_token
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self.pad_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self.prompt_text = lru_cache(maxsize=65536)(self._prompt_text)

    def image(self, image: "Image") -> EncodedImage:
        encoded = dict(self.processor(text=self.prompt_text("?"), images=image.convert("RGB"), return_tensors="pt"))
        tokens = int((encoded.pop("input_ids") == self.image_id).sum())
        encoded.pop("attention_mask", None)
        return EncodedImage(encoded, tokens)

    def prompts(self, questions: list[str], image_tokens: int) -> list[list[int]]:
        """Ids of the prompts up to where the reply begins, the image's tokens filled in."""
        return self._ids([self.prompt_text(q) for q in questions], image_tokens)

    def answers(self, question: str, answers: list[str], image_tokens: int) -> tuple[list[int], list[list[int]]]:
        """Ids of the prompt, and of each answer up to and with its end-of-sequence token.

        Raises:
            UserError: The template doesn't write a conversation as its prompt followed by the answer.
        """
        texts = [self.prompt_text(question), *(self._conversation_text(question, a) for a in answers)]
        prompt, *full = self._ids(texts, image_tokens)
        for ids in full:
            if ids[: len(prompt)] != prompt:
                raise UserError(
                    f"{self.where}: the chat template writes a prompt differently when an answer follows, so its answers can't be scored."
                )
        return prompt, [self._to_end(ids[len(prompt) :]) for ids in full]

    def first_tokens(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each group of words the tokens that a reply of one of them begins with, each token once: what follows the prompt's own ids.

        Raises:
            UserError: A word isn't in the vocabulary, or words of two groups begin with the same token.
        """
        found: list[list[int]] = []
        for words in groups:
            _, replies = self.answers("?", list(words), 1)
            unknown = [w for w, ids in zip(words, replies) if not ids or ids[0] == self.tokenizer.unk_token_id]
            if unknown:
                raise UserError(f"{self.where}: the tokenizer doesn't know the words {unknown} whose probabilities feedback reads.")
            found.append(list(dict.fromkeys(ids[0] for ids in replies)))
        if len({token for group in found for token in group}) < sum(map(len, found)):
            raise UserError(f"{self.where}: replies of {list(map(list, groups))} begin with the same token, so they can't be told apart by it.")
        return found

    def _prompt_text(self, question: str) -> str:
        return self.processor.apply_chat_template([self._user(question)], add_generation_prompt=True, tokenize=False)

    def _conversation_text(self, question: str, answer: str) -> str:
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return self.processor.apply_chat_template([self._user(question), reply], tokenize=False)

    @staticmethod
    def _user(question: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}

    def _ids(self, texts: list[str], image_tokens: int) -> list[list[int]]:
        expanded = [t.replace(self.image_token, self.image_token * image_tokens) for t in texts]
        # A template that writes the beginning-of-sequence token itself must not get a second one.
        bos = self.tokenizer.bos_token
        return self.tokenizer(expanded, add_special_tokens=not (bos and texts[0].startswith(bos)))["input_ids"]

    def _to_end(self, ids: list[int]) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return ids[: len(ids) - ids[::-1].index(eos)] if eos in ids else [*ids, eos]
