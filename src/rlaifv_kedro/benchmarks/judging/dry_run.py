"""What a benchmark would still ask its judge, and what that costs at most, without asking."""

from collections.abc import Sequence

from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest
from rlaifv_kedro.benchmarks.judging.prices import Price
from rlaifv_kedro.benchmarks.judging.progress import Read, progress_of
from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore
from rlaifv_kedro.params import JudgeParams

CHARACTERS_PER_TOKEN = 4  # about, of English; the server's own counts are stored with its replies


class DryJudge:
    """A judge that gives the judgements that are stored, and counts what else would be asked.

    A scorer that is handed this judge instead of the real one makes the very same requests, so the count is
    that of the benchmark. Not counted are replies asked for anew, and requests made of replies that aren't
    there yet.

    Attributes:
        stored: Different requests whose judgement is known already.
        to_ask: What is to be asked, each once.
    """

    def __init__(self, store: ReplyStore, params: JudgeParams):
        self.store, self.params = store, params
        self._stored: set[tuple[str, int]] = set()
        self._to_ask: dict[Attempt, None] = {}

    def ask(self, requests: Sequence[JudgeRequest], read: Read) -> list[Judgement]:
        """Judgements in the order of the requests; what isn't stored has the error ``not asked yet``."""
        judgements = []
        for request in requests:
            found = progress_of(request, read, self.store, self.params)
            if found.next:
                self._to_ask[found.next] = None
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
        """Requests that would be sent.

        Not counted are those that a failing server or a reply without a verdict would make necessary.
        """
        return len(self._to_ask)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, estimated.

        A token is taken for four characters, which is too few tokens for other scripts than Latin.
        """
        return sum(-(-len(attempt.prompt) // CHARACTERS_PER_TOKEN) for attempt in self._to_ask)

    @property
    def most_reply_tokens(self) -> int:
        """Tokens of the replies, if each is as long as it may be."""
        return sum(attempt.max_new_tokens for attempt in self._to_ask)

    def cost(self, price: Price | None) -> float | None:
        """What the calls cost at most, in the currency of the price; None without one."""
        if price is None:
            return None
        return (self.prompt_tokens * price.input + self.most_reply_tokens * price.output) / 1e6
