"""What a benchmark would still ask its judge, and what that costs, without asking."""

import math
from collections.abc import Sequence

from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest
from rlaifv_kedro.benchmarks.judging.prices import Price
from rlaifv_kedro.benchmarks.judging.progress import Read, progress_of
from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore
from rlaifv_kedro.params import JudgeParams

# About, of English; a character of another script than Latin is taken for a token. The server's own counts
# are stored with its replies.
CHARACTERS_PER_TOKEN = 4


class DryJudge:
    """A judge that gives the judgements that are stored, and counts what else would be asked.

    A scorer that is handed this judge instead of the real one makes the very same requests, so the count is
    that of the benchmark. Not counted are replies asked for anew, and requests made of replies that aren't
    there yet.
    """

    def __init__(self, store: ReplyStore, params: JudgeParams):
        self.store, self.params = store, params
        self._stored: set[tuple[str, int]] = set()
        self._to_ask: dict[Attempt, int] = {}  # -> how many replies ``judge.tries`` allows, this one included

    def ask(self, requests: Sequence[JudgeRequest], read: Read) -> list[Judgement]:
        """Judgements in the order of the requests; what isn't stored has the error ``not asked yet``."""
        judgements = []
        for request in requests:
            found = progress_of(request, read, self.store, self.params)
            if found.next:
                self._to_ask[found.next] = self.params.tries - found.replies
            else:
                self._stored.add((request.prompt, request.seed))
            error = "not asked yet" if found.next else found.why
            judgements.append(
                Judgement(request, found.last.reply if found.last else None, found.verdict, error)
            )
        return judgements

    @property
    def stored(self) -> int:
        """Different requests whose judgement is known already."""
        return len(self._stored)

    @property
    def calls(self) -> int:
        """Requests that would be sent, each once."""
        return len(self._to_ask)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, estimated."""
        return sum(map(_prompt_tokens, self._to_ask))

    @property
    def reply_tokens(self) -> int:
        """Tokens of one reply to each prompt, if it is as long as it may be."""
        return sum(attempt.max_new_tokens for attempt in self._to_ask)

    def cost(self, price: Price | None) -> float | None:
        """What one reply to each prompt costs, as long as it may be; None without a price.

        It is in the currency of the price.
        """
        return None if price is None else price.cost(self.prompt_tokens, self.reply_tokens)

    def most_cost(self, price: Price | None) -> float | None:
        """As :meth:`cost`, if ``judge.tries`` replies are needed each time.

        Replies after the first may have twice the tokens, as after one that was cut off.
        """
        if price is None:
            return None
        prompts = sum(_prompt_tokens(attempt) * tries for attempt, tries in self._to_ask.items())
        later = 2 * self.params.max_new_tokens
        replies = sum(a.max_new_tokens + later * (tries - 1) for a, tries in self._to_ask.items())
        return price.cost(prompts, replies)


def _prompt_tokens(attempt: Attempt) -> int:
    others = sum(character > "\u024f" for character in attempt.prompt)  # behind the Latin letters
    return others + math.ceil((len(attempt.prompt) - others) / CHARACTERS_PER_TOKEN)
