"""From images, questions and answers to the token ids of a model's own chat template."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.models.interface import Answer
from rlaifv_kedro.models.llava.processor import chunked_ids
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.processors import template_options
from rlaifv_kedro.pixels import as_seen
from rlaifv_kedro.placeholders import TURNS, Cleaner

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import GenerationConfig, PreTrainedTokenizerBase, ProcessorMixin

# Two questions that are used to see where in a prompt the processor puts an image.
_TRIAL, _OTHER_TRIAL = "?", "What is in the image, and where?"


@dataclass(frozen=True)
class EncodedImage:
    """An image as the model takes it, and the token ids that stand for it in a prompt.

    ``inputs`` are ``pixel_values`` and the like, with a batch dimension of 1.
    """

    inputs: dict[str, Any]
    block: list[int]


class ChatEncoder:
    """Token ids of prompts and answers about one image.

    A processor writes a text of its own for an image: 576 times one token, or rows of slices. That text is
    taken from its output for a trial question and put into all other prompts about the image, so an image is
    processed once however many questions are asked about it.

    Args:
        ends: Token ids that end a reply.
        context: Most tokens of a prompt with its answer that the model has positions for; None: no limit is
            known.

    Raises:
        UserError: The processor has no chat template.
    """

    def __init__(
        self,
        processor: "ProcessorMixin",
        where: str,
        ends: Collection[int] = (),
        context: int | None = None,
    ):
        from transformers import LlavaProcessor

        self._template = template_options(processor, f"{where}: the processor")
        self.processor, self.tokenizer, self.where = processor, processor.tokenizer, where
        self.context = context
        self.image_token: str = processor.image_token
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self.pad_id: int = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        self.ends = {self.tokenizer.eos_token_id, *ends}
        self.clean = cleaner_of(self.tokenizer, processor)
        self.prompt_text = lru_cache(maxsize=65536)(self._prompt_text)
        self.blank = lru_cache(maxsize=4096)(self._blank)
        self._by_chunks = isinstance(processor, LlavaProcessor)

    def image(self, image: "Image") -> EncodedImage:
        """Encode an image."""
        picture = as_seen(image)
        encoded = dict(self.processor(text=self.prompt_text(_TRIAL), images=picture, return_tensors="pt"))
        ids = encoded.pop("input_ids")[0].tolist()
        of_tokens = (1, len(ids))  # what belongs to the trial's tokens is left out
        inputs = {name: value for name, value in encoded.items() if tuple(value.shape) != of_tokens}
        if self._by_chunks:
            return EncodedImage(inputs, [self.image_id] * ids.count(self.image_id))
        start, replaced = self._place
        after = len(self._plain([self.prompt_text(_TRIAL)])[0]) - start - replaced
        return EncodedImage(inputs, ids[start : len(ids) - after])

    def placeholder(self, tokens: int) -> EncodedImage:
        """An image of so many tokens without its pixels.

        It is for prompts whose pixels are added elsewhere, or don't matter.
        """
        return EncodedImage({}, [self.image_id] * tokens)

    def prompts(self, questions: list[str], image: EncodedImage) -> list[list[int]]:
        """Ids of the prompts up to where the reply begins, the image's tokens filled in."""
        return self._ids([self.prompt_text(self.clean(q)) for q in questions], image)

    def unexpanded(self, questions: list[str]) -> list[list[int]]:
        """Ids of the prompts with what the chat template writes for an image in place of the image's tokens.

        It is what vLLM takes, which puts the image's tokens there itself.
        """
        texts = [self.prompt_text(self.clean(q)) for q in questions]
        return self._ids(texts, self.placeholder(1)) if self._by_chunks else self._plain(texts)

    def answer(self, ids: list[int]) -> Answer:
        """What the ids of a reply say."""
        return read_answer(self.tokenizer, self.ends, ids)

    def answers(
        self, question: str, answers: list[str], image: EncodedImage
    ) -> tuple[list[int], list[list[int]]]:
        """Ids of the prompt, and of each answer up to and with its end-of-sequence token.

        Raises:
            UserError: The template doesn't write a conversation as its prompt followed by the answer, or the
                tokenizer can't.
        """
        question = self.clean(question)
        asked = self.prompt_text(question)
        texts = [self._conversation_text(question, self.clean(a)) for a in answers]
        prompt, *full = self._ids([asked, *texts], image)
        after = [self._after(asked, prompt, text, ids) for text, ids in zip(texts, full)]
        return prompt, [self._to_end(ids) for ids in after]

    def _after(self, asked: str, prompt: list[int], text: str, ids: list[int]) -> list[int]:
        """The ids of a conversation that follow those of its prompt.

        An answer's first token may merge with the prompt's last one, as newlines do in byte-level BPE. A
        sample's can't, so such an answer is tokenized by itself.

        Args:
            asked, prompt: The prompt, and its ids.
            text, ids: The conversation, and its ids.
        """
        if ids[: len(prompt)] == prompt:
            return ids[len(prompt) :]
        alone = self._plain_ids([text[len(asked) :]], begin=False)[0]
        as_text = partial(self.tokenizer.decode, clean_up_tokenization_spaces=False)
        if not text.startswith(asked) or as_text([*prompt, *alone]) != as_text(ids):
            raise UserError(
                f"{self.where}: the chat template or the tokenizer writes a prompt differently when the "
                f"answer {shortened(text[len(asked) :], 40)!r} follows, so that it can't be scored."
            )
        return alone

    def end_of_image(self, prompt: list[int], image: EncodedImage) -> int:
        """How many of a prompt's first tokens must stay for the image to stay whole."""
        start = prompt.index(image.block[0]) if self._by_chunks else self._place[0]
        return start + len(image.block)

    def first_tokens(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each group of words the tokens that a reply of one of them begins with, each token once.

        A reply is what follows the prompt's own ids.

        Raises:
            UserError: A word isn't in the vocabulary, or words of two groups begin with the same token.
        """
        found: list[list[int]] = []
        for words in groups:
            _, replies = self.answers("?", list(words), self.placeholder(1))
            unknown = [
                w for w, ids in zip(words, replies) if not ids or ids[0] == self.tokenizer.unk_token_id
            ]
            if unknown:
                raise UserError(
                    f"{self.where}: the tokenizer doesn't know the words {unknown} whose probabilities "
                    "feedback reads."
                )
            found.append(list(dict.fromkeys(ids[0] for ids in replies)))
        if len({token for group in found for token in group}) < sum(map(len, found)):
            raise UserError(
                f"{self.where}: replies of {list(map(list, groups))} begin with the same token, so they "
                "can't be told apart by it."
            )
        return found

    @cached_property
    def _place(self) -> tuple[int, int]:
        """Where in a prompt the image's text begins, and how many tokens of the plain prompt it replaces.

        Raises:
            UserError: The processor writes an image differently for another question, so its text can't be
                put into other prompts.
        """
        from PIL import Image

        from rlaifv_kedro.branching.pack import shared_length

        def processed(question: str) -> list[int]:
            return self.processor(text=self.prompt_text(question), images=blank, return_tensors="pt")[
                "input_ids"
            ][0].tolist()

        blank = Image.new("RGB", (64, 48))
        (plain, other_plain), ids = (
            self._plain([self.prompt_text(_TRIAL), self.prompt_text(_OTHER_TRIAL)]),
            processed(_TRIAL),
        )
        mark = plain.index(self.image_id) if self.image_id in plain else len(plain)
        start = shared_length([plain[:mark], ids])
        after = shared_length([plain[start:][::-1], ids[start:][::-1]])
        after = min(after, len(plain) - mark - 1) if mark < len(plain) else after
        block = ids[start : len(ids) - after]
        if processed(_OTHER_TRIAL) != other_plain[:start] + block + other_plain[len(plain) - after :]:
            raise UserError(
                f"{self.where}: its processor writes an image into a prompt in a way that depends on the "
                "question; that isn't supported."
            )
        return start, len(plain) - start - after

    def _blank(self, size: tuple[int, int]) -> EncodedImage:
        """What stands for an image of this (width, height) in a prompt; pixels don't matter to that."""
        from PIL import Image

        return EncodedImage({}, self.image(Image.new("RGB", size)).block)

    def _prompt_text(self, question: str) -> str:
        return self._written([self._user(question)], add_generation_prompt=True)

    def _conversation_text(self, question: str, answer: str) -> str:
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return self._written([self._user(question), reply])

    def _written(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """What the chat template makes of a conversation."""
        with checkpoint_errors(self.where, "its chat template can't write a question with a picture"):
            return self.processor.apply_chat_template(messages, tokenize=False, **options, **self._template)

    @staticmethod
    def _user(question: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}

    def _ids(self, texts: list[str], image: EncodedImage) -> list[list[int]]:
        """Ids of whole texts, with the image's block where the template puts the image."""
        if self._by_chunks:
            return [
                chunked_ids(self.tokenizer, t, self.image_token, self.image_id, len(image.block))
                for t in texts
            ]
        start, replaced = self._place
        return [ids[:start] + image.block + ids[start + replaced :] for ids in self._plain(texts)]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts as the template writes them."""
        # A template that writes the beginning-of-sequence token itself must not get a second one.
        bos = self.tokenizer.bos_token
        return self._plain_ids(texts, begin=not (bos and texts[0].startswith(bos)))

    def _plain_ids(self, texts: list[str], begin: bool) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=begin)["input_ids"]

    def _to_end(self, ids: list[int]) -> list[int]:
        last = max((i for i, token in enumerate(ids) if token in self.ends), default=None)
        return ids[: last + 1] if last is not None else [*ids, self.tokenizer.eos_token_id]


def read_answer(
    tokenizer: "PreTrainedTokenizerBase",
    ends: Collection[int],
    ids: list[int],
    prompt_tokens: int | None = None,
) -> Answer:
    """What the ids of a reply say; it is cut off where its last one isn't one that ends it."""
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    finish = "stop" if ids and ids[-1] in ends else "length"
    return Answer(text, len(ids), finish, prompt_tokens=prompt_tokens)


def ends_of(generation: "GenerationConfig") -> set[int]:
    """Ids that end a reply by a checkpoint's settings for generation."""
    eos = generation.eos_token_id
    return {i for i in (eos if isinstance(eos, list) else [eos]) if i is not None}


def cleaner_of(tokenizer: "PreTrainedTokenizerBase", processor: Any) -> Cleaner:
    """What takes out of a text the words that this tokenizer reads as something else.

    They are its special tokens, what its processor writes for images, and what begins turns where no token
    does. Other added tokens stay, for some
    tokenizers have runs of newlines or HTML tags among them; so do signs such as ``!``, with which some pad.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    named = {word for name, word in vars(processor).items() if name.endswith("_token")}
    words = [word for word in special | named if isinstance(word, str) and len(word.strip()) > 2]
    return Cleaner([*TURNS, *words])
