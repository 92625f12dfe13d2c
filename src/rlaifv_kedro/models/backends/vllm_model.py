"""The backend for servers of vLLM that this run starts, spoken to in token ids.

Prompts are this project's to the token, and so is what is made of a reply's tokens. What may differ from the
transformers backend: vLLM's sums depend on what else it computes at the time, so that now and then a token of
a sample is another one, and a probability differs in its last digits; its repetition penalty counts the
prompt's tokens too. What can't be used is found by the probe, before any work
(:mod:`rlaifv_kedro.models.backends.vllm_probe`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Generic, TypeVar

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import note
from rlaifv_kedro.models.backends.room import no_room, without_room
from rlaifv_kedro.models.backends.server_bodies import Body, data_urls
from rlaifv_kedro.models.backends.server_replies import NoAnswer, or_error
from rlaifv_kedro.models.backends.vllm_requests import (
    TokenChoice,
    TokenPrompt,
    TokenServers,
    first_place,
    probs_of,
    sampling,
)
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.models.interface import Answer, Decoding, FirstToken, OnAnswer, Question
from rlaifv_kedro.models.llava.images import as_prepared
from rlaifv_kedro.pixels import as_seen

if TYPE_CHECKING:
    from PIL.Image import Image

    from rlaifv_kedro.models.backends.text_encoding import TextEncoder

Encoder = TypeVar("Encoder", ChatEncoder, "TextEncoder")
DEPENDS = (
    "computed by vLLM: its sums depend on what else it computes at the time, so that another run differs in "
    "the last digits of probabilities, and now and then in a sampled token"
)


class _OnServers(Generic[Encoder]):
    """A model on servers of vLLM.

    Args:
        encoder: Writes the prompts.
        requests: To the servers.
        close: Ends them.
        suppressed: Tokens that are never drawn.
    """

    def __init__(
        self,
        encoder: Encoder,
        requests: TokenServers,
        close: Callable[[], None],
        suppressed: Collection[int] = (),
    ):
        self.encoder, self.requests, self._close = encoder, requests, close
        self.suppressed = suppressed
        note(encoder.where, DEPENDS)

    def drawing(self, decoding: Decoding, seed: int, prompt: TokenPrompt) -> Body:
        """How the reply to a prompt is drawn."""
        return sampling(decoding, seed, prompt.room, self.encoder.ends, self.suppressed)

    def close(self) -> None:
        """Log what was asked, and end the servers."""
        self.requests.report()
        self._close()


class VLLMModel(_OnServers[ChatEncoder]):
    """See :class:`rlaifv_kedro.models.VisionLanguageModel`."""

    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.sample`; a request each, with its own seed.

        A question that fills the model's context gets an ``Answer.error``.
        """
        prompts = self.prompts([q.image for q in questions], [[q.text] for q in questions])
        asked = [(prompt, seed) for [prompt], row in zip(prompts, seeds) for seed in row]
        fits = [(prompt, seed) for prompt, seed in asked if prompt.room != 0]
        settings = [self.drawing(decoding, seed, prompt) for prompt, seed in fits]
        answers = iter(self.requests.generate([prompt for prompt, _ in fits], settings, self._answer))
        return [
            [or_error(next(answers)) if prompt.room != 0 else without_room(prompt.tokens) for _ in row]
            for [prompt], row in zip(prompts, seeds)
        ]

    def first_tokens(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[list[FirstToken]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.first_tokens`; a request a question.

        Probabilities are exact: vLLM gives those of just the tokens asked for, from the softmax over the
        whole vocabulary. Of the likeliest tokens it names the first alone.
        """
        groups = self.encoder.first_tokens(words)
        tokens = [token for group in groups for token in group]
        prompts = self.prompts(images, questions)
        fits = [prompt for row in prompts for prompt in row if prompt.room != 0]
        found = iter(
            self.requests.generate_once_a_picture(
                fits, first_place(tokens), lambda choice: probs_of(choice, tokens)
            )
        )
        return [
            [
                self._first_token(next(found), groups)
                if prompt.room != 0
                else FirstToken.missing(len(groups), no_room(prompt.tokens))
                for prompt in row
            ]
            for row in prompts
        ]

    def branch_log_probs(
        self, questions: Sequence[Question], answers: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]]]:
        """Given answers aren't scored by vLLM's servers: always a UserError."""
        raise UserError(
            f"{self.encoder.where}: backend=vllm doesn't score given answers. Take backend=transformers, or "
            "feedback.scoring=claims."
        )

    def prompts(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]]
    ) -> list[list[TokenPrompt]]:
        """The prompts of the questions about each image."""
        seen = {id(image): as_prepared(as_seen(image), self.encoder.processor) for image in images}
        pictures = [seen[id(image)] for image in images]  # each prepared and encoded once
        urls = data_urls(pictures)
        names = [sha256(url.encode()).hexdigest() for url in urls]
        return [
            [
                TokenPrompt(ids, len(whole), _room(self.encoder.context, len(whole)), url, name)
                for ids, whole in zip(
                    self.encoder.unexpanded(list(asked)),
                    self.encoder.prompts(list(asked), self.encoder.blank(picture.size)),
                )
            ]
            for picture, url, name, asked in zip(pictures, urls, names, questions)
        ]

    def _answer(self, choice: TokenChoice) -> Answer:
        return self.encoder.answer(choice.token_ids)

    def _first_token(self, found: dict[int, float] | NoAnswer, groups: list[list[int]]) -> FirstToken:
        if isinstance(found, NoAnswer):
            return FirstToken.missing(len(groups), str(found))
        best = max(found, key=found.__getitem__)
        return FirstToken(
            tuple(sum(found[token] for token in group) for group in groups),
            ((self.encoder.tokenizer.decode([best]), found[best]),),
        )


class VLLMText(_OnServers["TextEncoder"]):
    """See :class:`rlaifv_kedro.models.TextModel`."""

    def complete(
        self,
        chats: Sequence[Sequence[Mapping[str, str]]],
        seeds: Sequence[int],
        decoding: Decoding,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """See :class:`rlaifv_kedro.models.TextModel`; a request a chat.

        A chat too long for the model gets an ``Answer.error``: nothing is cut off.
        """
        prompts = [self.prompt(chat) for chat in chats]
        answers = [self.encoder.too_long(prompt.tokens, decoding) for prompt in prompts]
        asked = [i for i, answer in enumerate(answers) if answer is None]
        tell = on_answer or (lambda index, answer: None)
        for i, answer in enumerate(answers):
            if answer is not None:
                tell(i, answer)

        def on_outcome(k: int, outcome: list[int] | NoAnswer) -> None:
            i = asked[k]
            answers[i] = (
                or_error(outcome)
                if isinstance(outcome, NoAnswer)
                else self.encoder.answer(outcome, prompts[i].tokens)
            )
            tell(i, answers[i])

        settings = [self.drawing(decoding, seeds[i], prompts[i]) for i in asked]
        self.requests.generate(
            [prompts[i] for i in asked], settings, lambda choice: choice.token_ids, on_outcome
        )
        return answers

    def prompt(self, chat: Sequence[Mapping[str, str]]) -> TokenPrompt:
        """A chat's prompt."""
        ids = self.encoder.prompt(chat)
        return TokenPrompt(ids, len(ids), _room(self.encoder.context, len(ids)))


def _room(context: int | None, tokens: int) -> int | None:
    return None if context is None else max(context - tokens, 0)
