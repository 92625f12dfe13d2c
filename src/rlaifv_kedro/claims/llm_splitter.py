"""Divide and conquer by text LLMs: an answer becomes a list of claims, and these a list of yes/no questions.

The method is RLAIF-V's (arXiv 2405.17220). Its release loses and shifts claims: it cuts the prompt to 300
words, takes the first character off every line, pairs claims and questions without counting them, and asks
nothing twice. Here a reply is parsed strictly or asked for again, and an answer that can't be split is a
reject with a reason.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rlaifv_kedro.claims import NO_CLAIM, Claim
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.models.interface import Answer, Decoding, TextModel
from rlaifv_kedro.placeholders import Cleaner
from rlaifv_kedro.prompts import PromptFile
from rlaifv_kedro.seeds import seed_for

DIVIDE, TO_QUESTIONS = (Path(__file__).parent / "prompts" / name for name in ("divide.txt", "questions.txt"))
# Temperature and top_p as in the release. It allows 256 tokens, for at most 300 words of an answer; here
# whole answers, of 512 tokens in the release, are divided.
DECODING = Decoding(temperature=0.2, max_new_tokens=512, top_p=0.9)

_clean = Cleaner()


class Unparsable(ValueError):
    """A reply isn't what was asked for; the message says why."""


@dataclass
class _Request:
    """A prompt whose reply is wanted, and how far that is."""

    prompt: str
    parse: Callable[[str], list[str]]
    max_new_tokens: int
    tries: int = 0
    result: list[str] | str | None = None


class LLMSplitter:
    """A :class:`rlaifv_kedro.claims.ClaimSplitter` by text LLMs.

    A result depends on question, answer and ``seed``, not on what else is split.

    Args:
        divider: Writes the list of claims.
        question_writer: Turns it into a list of questions. The release has fine-tuned a model for each step;
            any instruct LLM can do both.
        seed: The run's.
        tries: How often a reply that is no good is asked for, with another seed each time.
        decoding: Of both steps. A reply that is cut off is asked for once more with twice as many tokens.
        divide_prompt: File with ``{question}`` and ``{answer}``; by default ours. Models that are fine-tuned
            for a step want the prompt that they were trained with.
        question_prompt: File with ``{claims}``, in whose place come lines that begin with ``- ``; by default
            ours.

    Raises:
        UserError: A prompt can't be read or lacks a placeholder.
    """

    def __init__(
        self,
        divider: TextModel,
        question_writer: TextModel,
        *,
        seed: int,
        tries: int = 3,
        decoding: Decoding = DECODING,
        divide_prompt: str | Path | None = None,
        question_prompt: str | Path | None = None,
    ):
        self.divider, self.question_writer, self.seed, self.tries = divider, question_writer, seed, tries
        self.decoding = decoding
        self.divide_prompt = PromptFile.read(divide_prompt or DIVIDE, ["question", "answer"])
        self.question_prompt = PromptFile.read(question_prompt or TO_QUESTIONS, ["claims"])

    def split(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Claim] | str]:
        """See :class:`rlaifv_kedro.claims.ClaimSplitter`; what is there several times is asked once."""
        pairs = [(question.strip(), answer.strip()) for question, answer in zip(questions, answers)]
        claims = self._divide([pair for pair in dict.fromkeys(pairs) if pair[1]])
        asked = self._to_questions([found for found in claims.values() if not isinstance(found, str)])

        def result(found: list[str] | str) -> list[Claim] | str:
            if isinstance(found, str):
                return found
            written = asked[tuple(found)]
            return written if isinstance(written, str) else [Claim(claim, written[claim]) for claim in found]

        return [result(claims.get(pair, NO_CLAIM)) for pair in pairs]

    def _divide(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], list[str] | str]:
        """For each (question, answer) its claims, at least one, or why there are none."""
        prompts = {
            pair: self.divide_prompt.fill(question=_clean(pair[0]), answer=_clean(pair[1])) for pair in pairs
        }
        parsers = dict.fromkeys(prompts.values(), read_list)
        found = self._ask(self.divider, "divide", parsers, "can't be divided into claims")
        return {pair: found[prompt] or NO_CLAIM for pair, prompt in prompts.items()}

    def _to_questions(self, lists: list[list[str]]) -> dict[tuple[str, ...], dict[str, str] | str]:
        """For each list of claims the question of each claim, or why there are none.

        A claim that an answer makes twice is asked for once: LLMs are bad at writing a question twice.
        """
        unique = {tuple(claims): list(dict.fromkeys(claims)) for claims in lists}
        prompts = {
            key: self.question_prompt.fill(claims="\n".join(f"- {c}" for c in claims))
            for key, claims in unique.items()
        }
        parsers = {prompts[key]: partial(read_questions, count=len(claims)) for key, claims in unique.items()}
        trouble = "its claims can't be turned into questions"
        found = self._ask(self.question_writer, "to questions", parsers, trouble)
        asked = {key: found[prompt] for key, prompt in prompts.items()}
        return {
            key: questions if isinstance(questions, str) else dict(zip(unique[key], questions))
            for key, questions in asked.items()
        }

    def _ask(
        self, model: TextModel, step: str, parsers: dict[str, Callable[[str], list[str]]], trouble: str
    ) -> dict[str, list[str] | str]:
        """For each prompt the parsed reply, or why there is none, which begins with ``trouble``.

        The seed of a try depends on the prompt, so on what the prompt is about.
        """
        most = self.decoding.max_new_tokens
        requests = [_Request(prompt, parse, most) for prompt, parse in parsers.items()]
        while pending := [r for r in requests if r.result is None]:
            for limit in sorted({r.max_new_tokens for r in pending}):
                group = [r for r in pending if r.max_new_tokens == limit]
                decoding = replace(self.decoding, max_new_tokens=limit)
                chats = [[{"role": "user", "content": r.prompt}] for r in group]
                seeds = [seed_for(self.seed, "splitter", step, r.prompt, r.tries) for r in group]
                for request, reply in zip(group, model.complete(chats, seeds, decoding)):
                    self._take(request, reply)
        return {
            r.prompt: f"{trouble}: {r.result}" if isinstance(r.result, str) else r.result for r in requests
        }

    def _take(self, request: _Request, reply: Answer) -> None:
        """Note the result of a request, or what to ask next."""
        if reply.error is None and reply.finish_reason == "length":
            if request.max_new_tokens > self.decoding.max_new_tokens:
                request.result = f"the reply is cut off at {request.max_new_tokens} tokens"
            else:  # With the same seed: the reply goes on from where it was cut off.
                request.max_new_tokens *= 2
            return
        try:
            if reply.error is not None:
                raise Unparsable(f"the model gave no reply: {reply.error}")
            request.result = request.parse(reply.text)
        except Unparsable as problem:
            request.tries += 1
            if request.tries == self.tries:
                request.result = f"{problem} (tried {self.tries} times)"


# A blank ends a mark; Chinese and Japanese write none before their own signs, nor after "1、".
_MARK = re.compile(r"([-*•·●–]|\d{1,3}[.)])(\s+|$|(?=[\u3000-\u9fff\uac00-\ud7af]))|\d{1,3}[、．）]\s*")
_COLONS, _QUESTION_MARKS = (":", "："), ("?", "？", "؟")


def read_list(reply: str) -> list[str]:
    """The items of a list.

    An item is a line that begins with ``- `` (or ``* ``, ``• ``, ``– ``, ``1. ``, ``1) ``, ``1、``). Before
    the first one stands a heading, maybe: a line that begins with ``#`` or ends with a colon. Empty lines
    don't count, nor do asterisks that make text bold. Anything else is refused, since it can't be told from a
    claim or the rest of one: other lines, a heading after items (of opinions, or notes), items that introduce
    others.

    Returns:
        Empty if there is a ``#`` heading only, or the one item ``None``.

    Raises:
        Unparsable: The reply has any other line, or neither item nor ``#`` heading.
    """
    items: list[str] = []
    heading = False
    for line in reply.replace("\r", "\n").split("\n"):
        line = re.sub(r"\*\*(.+?)\*\*", r"\1", line).strip()
        mark = _MARK.match(line)
        if mark:
            item = line[mark.end() :].strip()
            if not re.search(r"\w", item) or item.endswith(_COLONS):
                raise Unparsable(f"the list has an item without a sentence, {shortened(line, 60)!r}")
            items.append(item)
        elif not items and line.startswith("#"):
            heading = True
        elif line and (items or not line.endswith(_COLONS)):
            raise Unparsable(f"the reply has a line that is no item of the list, {shortened(line, 60)!r}")
    if not items and not heading:
        raise Unparsable("the reply has neither a heading nor items")
    return [] if [item.strip(" .()").casefold() for item in items] in (["none"], ["n/a"]) else items


def read_questions(reply: str, count: int) -> list[str]:
    """The items of a list of so many questions; see :func:`read_list`.

    Raises:
        Unparsable: Also if they are more or fewer, or one doesn't end with a question mark.
    """
    questions = read_list(reply)
    if len(questions) != count:
        raise Unparsable(f"the reply has {len(questions)} instead of {count} questions")
    for question in questions:
        if not question.endswith(_QUESTION_MARKS):
            raise Unparsable(f"a question has no question mark, {shortened(question, 60)!r}")
    return questions
