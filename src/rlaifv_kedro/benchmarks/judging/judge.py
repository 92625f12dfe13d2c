"""A text LLM as a judge: any OpenAI-compatible server, or a model in this process.

Nothing is asked twice, and nothing is guessed.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest
from rlaifv_kedro.benchmarks.judging.prices import price_of
from rlaifv_kedro.benchmarks.judging.progress import Progress, Read, progress_of
from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore, StoredReply
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.params import ComputeParams, JudgeParams, ModelsParams, OpenAIParams, WeightsParams
from rlaifv_kedro.schemas import table

if TYPE_CHECKING:
    from rlaifv_kedro.models import Answer, TextModel

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True)
class StoredJudgement(Judgement):
    """A judgement that the store can give again.

    Attributes:
        stored: The reply that the verdict was read from, or the last one without a verdict.
        replies: How many there were to the request.
    """

    asked_model: str
    stored: StoredReply | None
    replies: int


class StoredJudge:
    """A judge whose replies are stored; see :class:`rlaifv_kedro.benchmarks.judgement.Judge`.

    Replies are stored as they come, so a run that was killed goes on where it stopped, and one that finds
    them all needs neither server nor weights. Troubles of the connection are the backend's: it tries again,
    with growing pauses. What then got no reply has failed in this call, and is asked again by the next.

    Args:
        open_model: Called once there is something to ask.
        store: Of this judge.
        pause: Seconds before replies without a verdict are asked for anew; twice as long each time, up to a
            minute.
    """

    def __init__(
        self,
        open_model: "Callable[[], TextModel]",
        store: ReplyStore,
        params: JudgeParams,
        pause: float = 1.0,
    ):
        self.store, self.params, self.pause = store, params, pause
        self._open_model = open_model
        self._model: TextModel | None = None

    def ask(self, requests: Sequence[JudgeRequest], read: Read) -> list[StoredJudgement]:
        """Judgements in the order of the requests; requests with the same prompt and seed are asked once.

        Raises:
            UserError: The judge can't be opened, is down, or gives no reply to any of the requests; a reply
                can't be stored.
        """
        different = {(request.prompt, request.seed): request for request in requests}
        lost: dict[Attempt, str] = {}  # why no reply came
        with self.store.locked():
            before = len(self.store)
            for rounds in count():
                found = {
                    key: progress_of(request, read, self.store, self.params)
                    for key, request in different.items()
                }
                missing = dict.fromkeys(s.next for s in found.values() if s.next and s.next not in lost)
                if not missing:
                    break
                if rounds:
                    time.sleep(min(self.pause * 2 ** (rounds - 1), _LONGEST_PAUSE))
                self._send(list(missing), lost)
        if different and all(progress.next in lost and not progress.replies for progress in found.values()):
            raise UserError(
                f"{self.store.asked_model}: none of {len(different)} requests has a reply, the last: "
                f"{list(lost.values())[-1]}. Mend that at the server, or in models.judge, and ask again."
            )
        judgements = [
            self._judgement(request, found[request.prompt, request.seed], lost) for request in requests
        ]
        self._report(judgements, len(self.store) - before)
        return judgements

    def close(self) -> None:
        """Let the model go, if it was needed."""
        from rlaifv_kedro.models import close_model

        if self._model is not None:
            close_model(self._model)
            self._model = None

    def _send(self, attempts: list[Attempt], lost: dict[Attempt, str]) -> None:
        from rlaifv_kedro.models import Decoding

        if self._model is None:
            self._model = self._open_model()

        def decoding_of(attempt: Attempt) -> tuple[float, int]:
            return attempt.temperature, attempt.max_new_tokens

        for decoding, alike in groupby(sorted(attempts, key=decoding_of), key=decoding_of):
            group = list(alike)

            def keep(index: int, answer: "Answer", group: list[Attempt] = group) -> None:
                if answer.error is not None:
                    lost[group[index]] = f"no reply: {answer.error}"
                else:
                    self.store.add(
                        group[index],
                        returned_model=answer.model,
                        reply=answer.text,
                        finish_reason=answer.finish_reason,
                        prompt_tokens=answer.prompt_tokens,
                        reply_tokens=answer.token_count,
                        received=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                    )

            chats = [[{"role": "user", "content": attempt.prompt}] for attempt in group]
            self._model.complete(chats, [attempt.seed for attempt in group], Decoding(*decoding), keep)

    def _judgement(self, request: JudgeRequest, found: Progress, lost: dict[Attempt, str]) -> StoredJudgement:
        error = lost[found.next] if found.next else found.why
        reply = found.last.reply if found.last else None
        return StoredJudgement(
            request, reply, found.verdict, error, self.store.asked_model, found.last, found.replies
        )

    def _report(self, judgements: list[StoredJudgement], new: int) -> None:
        failed = [j for j in judgements if j.error is not None]
        log.info(
            "%s: %d judgements, %d new replies, %d failed",
            self.store.asked_model,
            len(judgements),
            new,
            len(failed),
        )
        if failed:
            reasons = Counter(str(j.error) for j in failed).most_common(3)
            shown = "; ".join(f"{why} ({times} times)" for why, times in reasons)
            log.warning(
                "%s: %d of %d judgements failed: %s",
                self.store.asked_model,
                len(failed),
                len(judgements),
                shown,
            )
        models = sorted({j.stored.returned_model for j in judgements if j.stored and j.stored.returned_model})
        if len(models) > 1:
            log.warning(
                "%s: the replies are of different models, %s: their scores may differ",
                self.store.asked_model,
                " and ".join(models),
            )


def open_judge(
    models: ModelsParams, params: JudgeParams, compute: ComputeParams, folder: Path
) -> StoredJudge:
    """The judge that ``models.judge`` names; it is opened when there is something to ask.

    Args:
        folder: Of the stored replies: the catalog's ``judge_store``.

    Raises:
        UserError: No judge is named, or the file with prices is damaged.
    """
    named = named_judge(models)
    price = price_of(named, params.prices)
    priced = (
        named
        if price is None
        else named.model_copy(update={"price_input": price.input, "price_output": price.output})
    )

    def open_model() -> "TextModel":
        from rlaifv_kedro.models import open_text_model

        return open_text_model(priced, compute, params.batch_size, "judge")

    return StoredJudge(open_model, open_store(models, folder), params)


def open_store(models: ModelsParams, folder: Path) -> ReplyStore:
    """The stored replies of the judge that ``models.judge`` names.

    Raises:
        UserError: No judge is named, or the folder can't be written.
    """
    return ReplyStore(folder, asked_model(named_judge(models)))


def asked_model(params: OpenAIParams | WeightsParams) -> str:
    """What a judge is asked for by: a server's name for the model, or the path of weights with a hash.

    So a folder with other weights, adapters or chat template is another judge.

    Raises:
        UserError: There are no such weights.
    """
    if isinstance(params, OpenAIParams):
        return params.model
    from rlaifv_kedro.models.hub import folder_of

    adapter = getattr(params, "adapter", None)  # vLLM takes none
    parts = [folder_of(str(params.path)), *(Path(part) for part in (adapter, params.chat_template) if part)]
    for part in parts:
        if not part.exists():
            raise UserError(f"models.judge: there is no {part}. Mend path, adapter or chat_template there.")
    digest = hashlib.sha256("".join(content_sha256(part) for part in parts).encode()).hexdigest()
    return f"{params.path}@{digest[:12]}"


def judgement_table(policy: str, benchmark: str, judgements: Iterable[StoredJudgement]) -> pd.DataFrame:
    """The ``judgements`` table of a policy: a row a judgement. Verdicts that aren't text are JSON."""
    rows = [
        (
            policy,
            benchmark,
            j.request.item_id,
            j.request.step,
            hashlib.sha256(j.request.prompt.encode()).hexdigest(),
            j.asked_model,
            j.stored.returned_model if j.stored else None,
            j.reply,
            _as_text(j.verdict),
            j.error,
            j.replies,
            j.stored.prompt_tokens if j.stored else None,
            j.stored.reply_tokens if j.stored else None,
        )
        for j in judgements
    ]
    return table("judgements").frame(rows).astype({"prompt_tokens": "Int64", "reply_tokens": "Int64"})


def _as_text(verdict: Any) -> str | None:
    if isinstance(verdict, str) or verdict is None:
        return verdict
    return json.dumps(verdict, default=str)


def named_judge(models: ModelsParams) -> OpenAIParams | WeightsParams:
    """``models.judge``.

    Raises:
        UserError: It names none.
    """
    named = models.judge
    if named is None:
        raise UserError(
            "No judge is named. Set models.judge: for a server backend: openai with url and model, for a "
            "model in this process path; docs/judges.md."
        )
    return named
