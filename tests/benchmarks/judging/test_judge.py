"""The judge: what is asked, stored and never asked again, through troubles, kills and other processes."""

import hashlib
import json
import logging
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge_server import Body, ChatServer, Fault, chat_server, completion, judge_server, question_of
from rlaifv_kedro.benchmarks.judgement import JudgeRequest
from rlaifv_kedro.benchmarks.judging.dry_run import DryJudge
from rlaifv_kedro.benchmarks.judging.judge import StoredJudge, asked_model, judgement_table, open_judge
from rlaifv_kedro.benchmarks.judging.prices import Price, PriceTable, price_of
from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore
from rlaifv_kedro.datasets.tables import table_content
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Answer, Decoding, TextModel
from rlaifv_kedro.models.backends.openai import OpenAIModel
from rlaifv_kedro.params import ComputeParams, JudgeParams, ModelsParams, OpenAIParams, TransformersParams
from rlaifv_kedro.schemas import check

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor proxies of this machine."""
    for name in (
        "OPENAI_API_KEY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


class Scripted:
    """A text LLM that gives the replies of a script to each prompt one after the other; a missing one must
    not be asked for.
    """

    def __init__(self, script: Mapping[str, Sequence[str | Answer]]):
        self.script = {prompt: list(replies) for prompt, replies in script.items()}
        self.asked: list[tuple[str, int, float, int]] = []  # (prompt, seed, temperature, max_new_tokens)

    def complete(
        self, chats: Sequence[Any], seeds: Sequence[int], decoding: Decoding, heard: Any = None
    ) -> list[Answer]:
        answers = []
        for index, ([message], seed) in enumerate(zip(chats, seeds)):
            self.asked.append((message["content"], seed, decoding.temperature, decoding.max_new_tokens))
            reply = self.script[message["content"]].pop(0)
            answers.append(
                reply
                if isinstance(reply, Answer)
                else Answer(reply, 5, "stop", prompt_tokens=40, model="judge-1")
            )
            heard(index, answers[-1])
        return answers


def judge_of(model: TextModel | None, folder: Path, **params: Any) -> StoredJudge:
    """One that waits for nothing; None is a model that can't be opened."""

    def opened() -> TextModel:
        assert model is not None, "nothing should have been asked"
        return model

    return StoredJudge(opened, ReplyStore(folder, "judge"), JudgeParams(**params), pause=0)


def server_judge(
    server: ChatServer, folder: Path, judge: Mapping[str, Any] | None = None, **params: Any
) -> StoredJudge:
    model = OpenAIParams(url=server.url, **{"model": "judge", "timeout": 20.0, "concurrency": 8, **params})
    return StoredJudge(
        lambda: OpenAIModel(model, 0.01), ReplyStore(folder, "judge"), JudgeParams(**(judge or {})), pause=0
    )


def asking(*prompts: str) -> list[JudgeRequest]:
    return [JudgeRequest(prompt, "rating", prompt) for prompt in prompts]


ANSWER = {
    "returned_model": "judge-1",
    "reply": "rating: 1",
    "finish_reason": "stop",
    "prompt_tokens": 40,
    "reply_tokens": 5,
    "received": "2026-01-01T00:00:00Z",
}


def rating(reply: str) -> int | None:
    found = re.fullmatch(r"rating: (\d+)", reply)
    return int(found[1]) if found else None


def rows(store: ReplyStore) -> list[dict[str, Any]]:
    """What the database holds, in the order in which it came."""
    with closing(sqlite3.connect(store.path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM replies ORDER BY rowid")]


def change(store: ReplyStore, statement: str, *values: Any) -> None:
    """Change the database behind the store's back."""
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute(statement, values)


class TestAsking:
    def test_verdicts_come_in_the_order_of_the_requests(self, tmp_path: Path) -> None:
        """0 is a verdict like any other."""
        model = Scripted({"a": ["rating: 0"], "b": ["rating: 3"]})
        judgements = judge_of(model, tmp_path).ask(asking("b", "a", "b"), rating)
        assert [(j.request.item_id, j.reply, j.verdict, j.error) for j in judgements] == [
            ("b", "rating: 3", 3, None),
            ("a", "rating: 0", 0, None),
            ("b", "rating: 3", 3, None),
        ]
        assert sorted(model.asked) == [("a", 0, 0.0, 1024), ("b", 0, 0.0, 1024)]

    def test_nothing_is_asked_twice(self, tmp_path: Path) -> None:
        first = judge_of(Scripted({"a": ["no idea", "rating: 2"], "b": ["rating: 1"]}), tmp_path)
        expected = first.ask(asking("a", "b"), rating)
        assert first.ask(asking("b", "a"), rating) == expected[::-1]
        assert judge_of(None, tmp_path).ask(asking("a", "b"), rating) == expected
        assert judge_of(None, tmp_path).ask([], rating) == []

    @pytest.mark.parametrize("other", [{"temperature": 0.1}, {"max_new_tokens": 99}])
    def test_what_a_reply_may_depend_on_makes_another_request(
        self, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        judge_of(Scripted({"a": ["rating: 1"]}), tmp_path).ask(asking("a"), rating)
        assert (
            judge_of(Scripted({"a": ["rating: 2"]}), tmp_path, **other).ask(asking("a"), rating)[0].verdict
            == 2
        )
        with_seed = judge_of(Scripted({"a": ["rating: 3"]}), tmp_path).ask(
            [JudgeRequest("a", "run 2", "a", seed=1)], rating
        )
        assert with_seed[0].verdict == 3
        assert ReplyStore(tmp_path, "another judge").get(Attempt("a", 0, 1024, 0)) is None
        assert len(ReplyStore(tmp_path, "judge")) == 3

    def test_replies_without_a_verdict_are_asked_for_anew_and_then_reported(self, tmp_path: Path) -> None:
        """With a temperature, since most models would say the same again at 0, and with seeds that no run
        of a benchmark has.
        """
        model = Scripted({"a": ["hm", "", "rating: 4"], "b": ["x", "y", "z"], "c": ["", "", ""]})
        a, b, c = judge_of(model, tmp_path, retry_temperature=0.7).ask(asking("a", "b", "c"), rating)
        assert (a.verdict, a.error, a.replies) == (4, None, 3)
        assert (b.verdict, b.reply, b.error) == (None, "z", "the reply holds no verdict (replies: 3)")
        assert (c.verdict, c.reply, c.error) == (None, "", "the reply is empty (replies: 3)")
        sent = [(seed, temperature) for prompt, seed, temperature, _ in model.asked if prompt == "a"]
        assert sent[0] == (0, 0.0) and [t for _, t in sent[1:]] == [0.7, 0.7]
        assert len({seed for seed, _ in sent}) == 3 and min(seed for seed, _ in sent[1:]) > 1000
        assert sorted(entry["reply"] for entry in rows(ReplyStore(tmp_path, "judge"))) == [
            "",
            "",
            "",
            "",
            "hm",
            "rating: 4",
            "x",
            "y",
            "z",
        ]

    def test_a_reply_that_was_cut_off_is_not_read(self, tmp_path: Path) -> None:
        """It is asked for once more, with the same seed and twice as many tokens."""
        cut = Answer("rating: 1", 1024, "length")
        model = Scripted({"a": [cut, "rating: 5"], "b": [cut, cut, "rating: 6"], "c": [cut, cut, cut]})
        a, b, c = judge_of(model, tmp_path).ask(asking("a", "b", "c"), rating)
        assert (a.verdict, b.verdict, c.verdict, c.error) == (
            5,
            6,
            None,
            "the reply is cut off at 2048 tokens (replies: 3)",
        )
        sent = [(seed, limit) for prompt, seed, _, limit in model.asked if prompt == "b"]
        assert sent[:2] == [(0, 1024), (0, 2048)] and sent[2][0] != 0 and sent[2][1] == 2048

    def test_what_got_no_reply_fails_now_and_is_asked_again_later(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = Answer("", 0, "error", "HTTP 500 (tries: 7)")
        first = judge_of(Scripted({"a": [broken], "b": ["rating: 1"], "c": ["hm", broken]}), tmp_path)
        a, b, c = first.ask(asking("a", "b", "c"), rating)
        assert (a.reply, a.error, b.verdict) == (None, "no reply: HTTP 500 (tries: 7)", 1)
        assert (c.reply, c.error, c.verdict) == ("hm", "no reply: HTTP 500 (tries: 7)", None)
        assert "2 of 3 judgements failed: no reply: HTTP 500 (tries: 7) (2 times)" in caplog.text
        again = judge_of(Scripted({"a": ["rating: 2"], "c": ["rating: 3"]}), tmp_path).ask(
            asking("a", "b", "c"), rating
        )
        assert [j.verdict for j in again] == [2, 1, 3]

    def test_a_better_reader_reads_what_is_stored(self, tmp_path: Path) -> None:
        judge_of(Scripted({"a": ["five", "five", "five"]}), tmp_path).ask(asking("a"), rating)
        assert judge_of(None, tmp_path).ask(asking("a"), {"five": 5}.get)[0].verdict == 5


class TestStore:
    def test_a_reply_is_stored_with_what_it_was_asked_for_with(self, tmp_path: Path) -> None:
        store = judge_of(Scripted({"a\n": ["line 1\nline 2\u2028\u00e9"]}), tmp_path).store
        StoredJudge(lambda: Scripted({"a\n": ["line 1\nline 2\u2028\u00e9"]}), store, JudgeParams(), 0).ask(
            asking("a\n"), str
        )
        (entry,) = rows(store)
        assert len(entry.pop("checksum")) == 64
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("received"))
        assert entry == {
            "key": store.key(Attempt("a\n", 0, 1024, 0)),
            "prompt_sha256": "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7",
            "asked_model": "judge",
            "returned_model": "judge-1",
            "temperature": 0,
            "max_new_tokens": 1024,
            "seed": 0,
            "reply": "line 1\nline 2\u2028\u00e9",
            "finish_reason": "stop",
            "prompt_tokens": 40,
            "reply_tokens": 5,
        }

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("reply", "rating: 9"),
            ("returned_model", "judge-2"),
            ("finish_reason", None),
            ("reply_tokens", 4),
            ("checksum", "0" * 64),
        ],
    )
    def test_a_damaged_reply_is_asked_for_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, value: Any
    ) -> None:
        judge_of(Scripted({"a": ["rating: 1"], "b": ["rating: 2"]}), tmp_path).ask(asking("a", "b"), rating)
        store = ReplyStore(tmp_path, "judge")
        change(store, f"UPDATE replies SET {column} = ? WHERE prompt_sha256 = ?", value, hash_of("a"))
        found = judge_of(Scripted({"a": ["rating: 3"]}), tmp_path).ask(asking("a", "b"), rating)
        assert [j.verdict for j in found] == [3, 2]
        assert caplog.text.count("passed over a damaged reply") == 1
        assert [j.verdict for j in judge_of(None, tmp_path).ask(asking("a", "b"), rating)] == [3, 2]

    def test_no_damage_is_silent(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Bits, blocks of zeros and missing ends, anywhere in the file: each reply is as it was, or is
        passed over with a warning, or the file is refused. None is another one.
        """
        store = ReplyStore(tmp_path / "whole", "judge")
        attempts = [Attempt(f"{number}", 0.0, 1024, 0) for number in range(60)]
        for number, attempt in enumerate(attempts):
            store.add(attempt, **ANSWER | {"reply": f"rating: {number} " + "because " * (number % 50)})
        known, content = [store.get(attempt) for attempt in attempts], store.path.read_bytes()
        outcomes = Counter()
        random = np.random.default_rng(0)
        for number in range(90):
            damaged, at = bytearray(content), int(random.integers(1, len(content)))
            if number % 3 == 0:
                damaged[at] ^= 1 << int(random.integers(8))
            elif number % 3 == 1:
                damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
            else:
                del damaged[at:]
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / store.path.name).write_bytes(damaged)
            caplog.clear()
            try:
                opened = ReplyStore(folder, "judge")
                found = [opened.get(attempt) for attempt in attempts]
            except UserError as error:
                assert store.path.name in error.message and "is damaged" in error.message
                outcomes["refused"] += 1
                continue
            lost = sum(reply is None for reply in found)
            assert all(reply in (None, before) for reply, before in zip(found, known))
            assert caplog.text.count("passed over a damaged reply") == lost
            outcomes["warned of" if lost else "harmless"] += 1
        assert outcomes["refused"] >= 30 and outcomes["warned of"] >= 5

    def test_what_is_no_database_is_refused(self, tmp_path: Path) -> None:
        path = ReplyStore(tmp_path, "judge").path
        path.write_bytes(b"no database" * 100)
        with pytest.raises(UserError, match=r"judge-.*\.sqlite is damaged .*not a database"):
            ReplyStore(tmp_path, "judge")

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        """What was stored stays, and the reply that had no room is asked for again."""
        judge = judge_of(Scripted({"a": ["rating: 1"], "b": ["rating: 2" + " " * 100_000]}), tmp_path)
        judge.ask(asking("a"), rating)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(UserError, match=r"Cannot read or write .*judge-.*\.sqlite: .*room"):
                judge.ask(asking("b"), rating)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [entry["reply"] for entry in rows(judge.store)] == ["rating: 1"]
        again = judge_of(Scripted({"b": ["rating: 4"]}), tmp_path).ask(asking("a", "b"), rating)
        assert [j.verdict for j in again] == [1, 4]

    @pytest.mark.parametrize("replies", [1, 50, 300])
    def test_a_kill_while_storing_loses_no_reply_that_counts(self, tmp_path: Path, replies: int) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore\n"
            f"store, answer = ReplyStore(Path(sys.argv[1]), 'judge'), {ANSWER}\n"
            "for number in range(10**6):\n"
            "    store.add(Attempt(str(number), 0.0, 1024, 0), **answer)\n"
            "    print(number, flush=True)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(replies):
                process.stdout.readline()
            process.kill()
            counted = replies + len(process.stdout.read().split())
        store = ReplyStore(tmp_path, "judge")
        assert len(store) in (counted, counted + 1)  # one may be stored and not yet counted
        assert all(store.get(Attempt(str(number), 0.0, 1024, 0)) for number in range(counted))

    def test_the_file_of_an_earlier_version_is_taken_over_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """JSON lines, of which one is damaged and the last one torn. The file is kept."""
        caplog.set_level(logging.INFO)
        store = ReplyStore(tmp_path / "elsewhere", "judge")
        for prompt in "abc":
            store.add(Attempt(prompt, 0.0, 1024, 0), **ANSWER | {"reply": f"rating: {ord(prompt)}\u2028"})
        written = []
        for row in rows(store):
            del row["checksum"]
            written.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        old = tmp_path / store.path.with_suffix(".jsonl").name
        content = written[0] + b"\x00" * 20 + b"\n" + written[1] + written[2][:-9]
        old.write_bytes(content)
        new = ReplyStore(tmp_path, "judge")
        assert rows(new) == rows(store)[:2]
        assert "took over 2 replies of an earlier version (damaged lines: 2)" in caplog.text
        assert not old.exists() and old.with_suffix(".jsonl.taken-over").read_bytes() == content
        assert len(ReplyStore(tmp_path, "judge")) == 2 and caplog.text.count("took over") == 1

    def test_a_reply_of_today_wins_over_one_that_is_taken_over(self, tmp_path: Path) -> None:
        """As after a kill between the copy and the new name of the old file."""
        store, attempt = ReplyStore(tmp_path, "judge"), Attempt("a", 0.0, 1024, 0)
        store.add(attempt, **ANSWER)
        row = {name: value for name, value in rows(store)[0].items() if name != "checksum"}
        store.path.with_suffix(".jsonl").write_text(json.dumps(row | {"reply": "older"}) + "\n")
        assert ReplyStore(tmp_path, "judge").get(attempt).reply == ANSWER["reply"]

    def test_names_of_models_make_names_of_files(self, tmp_path: Path) -> None:
        names = ["Qwen/Qwen2.5-7B", "Qwen_Qwen2.5-7B", "../../etc/x", "ж" * 500, "gpt-4o"]
        paths = [ReplyStore(tmp_path, name).path for name in names]
        assert len(set(paths)) == 5 and all(
            path.parent == tmp_path and len(path.name.encode()) < 250 for path in paths
        )


def hash_of(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


class TestOverHttp:
    def test_a_storm(self, tmp_path: Path) -> None:
        """300 prompts, 100 of which come twice. By the last digit of their number the judge replies: 0-5
        well; 6 nothing, then well; 7 nonsense, then well; 8 cut off, then well with twice as many tokens; 9
        always nonsense. Most requests go wrong up to twice before they are answered. Two prompts are always
        refused and two always get a 503: all are class 3.

        Replies: 6 x 30 - 4, and 3 x 2 x 30 (6, 7, 8), and 3 x 30 (9): 446, all different requests, each
        answered once.
        """
        faults = [
            chat_server.status(429, headers={"Retry-After": "0.01"}),
            chat_server.status(500),
            chat_server.cut,
            chat_server.GARBAGE,
            chat_server.CUT_JSON,
            chat_server.NO_CHOICES,
            chat_server.status(503),
            chat_server.raw(b""),
        ]
        calm = False

        def storm(body: Body, before: int) -> Fault | None:
            item = int(question_of(body))
            if not calm and item in (3, 103):
                return chat_server.status(400, "no")
            if not calm and item in (13, 113):
                return chat_server.status(503)
            if before < item % 3:
                return (
                    chat_server.hang
                    if item in (41, 242) and before == 0
                    else faults[(item + 3 * before) % len(faults)]
                )
            return None

        def reply(body: Body) -> Body:
            item, first = int(question_of(body)), body["temperature"] == 0
            if item % 10 == 8 and body["max_tokens"] == 64:
                return completion("rating: 1", finish="length")
            text = {6: "", 7: "hm"}.get(item % 10, f"rating: {item}") if first else f"rating: {item}"
            return completion("nonsense" if item % 10 == 9 else text, model="judge-2")

        requests = [JudgeRequest(f"{i}", "rating", f"{i % 300}") for i in range(400)]
        with ChatServer(models=("judge",), fault=storm, reply=reply) as server:
            judge = server_judge(
                server, tmp_path, {"max_new_tokens": 64}, concurrency=32, timeout=5.0, retries=3
            )
            judgements = judge.ask(requests, rating)
            assert [j.request for j in judgements] == requests
            refused = {i for i in range(400) if i % 300 in (3, 103)}
            down = {i for i in range(400) if i % 300 in (13, 113)}
            nonsense = {i for i in range(400) if i % 10 == 9}
            for i, judgement in enumerate(judgements):
                if i in refused | down | nonsense:
                    why = (
                        "HTTP 400: no"
                        if i in refused
                        else "HTTP 503: sorry (tries: 4)"
                        if i in down
                        else "no verdict (replies: 3)"
                    )
                    assert judgement.verdict is None and why in judgement.error
                else:
                    assert (judgement.verdict, judgement.error) == (i % 300, None)
            stored = rows(judge.store)
            assert len(stored) == len({entry["key"] for entry in stored}) == len(server.answered) == 446
            assert set(server.answered.values()) == {1}
            assert Counter(entry["returned_model"] for entry in stored) == {"judge-2": 416, "tiny": 30}
            table = check("judgements", judgement_table("a policy", "mmhal", judgements), "here")
            assert len(table) == 400 and table["error"].notna().sum() == len(refused | down | nonsense) == 46

            sent, calm = len(server.bodies), True
            again = server_judge(server, tmp_path, {"max_new_tokens": 64}).ask(requests, rating)
            assert {question_of(body) for body in server.bodies[sent:]} == {"3", "103", "13", "113"}
            assert [j.verdict for j in again if j.error is None] == [
                i % 300 for i in range(400) if i not in nonsense
            ]
            assert set(server.answered.values()) == {1}
            sent = len(server.bodies)
            assert (
                server_judge(server, tmp_path, {"max_new_tokens": 64}).ask(requests, rating) == again
                and len(server.bodies) == sent
            )

    def test_another_model_than_asked_answers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It is recorded and warned of, once. The original asks on for ever."""
        with judge_server(lambda prompt: "rating: 2", model="judge-2024") as server:
            server.models = ("judge",)
            judge = server_judge(server, tmp_path)
            found = judge.ask(asking("a", "b"), rating)
            assert [j.verdict for j in found] == [2, 2]
            assert (
                len(server.bodies) == 2 and caplog.text.count("the server says that judge-2024 answers") == 1
            )
        table = judgement_table("a policy", "mmhal", found)
        assert table[["asked_model", "returned_model"]].drop_duplicates().values.tolist() == [
            ["judge", "judge-2024"]
        ]
        with judge_server(lambda prompt: "rating: 3", model="judge-2025") as server:
            server.models = ("judge",)
            server_judge(server, tmp_path).ask(asking("a", "b", "c"), rating)
        assert (
            "the replies are of different models, judge-2024 and judge-2025: their scores may differ"
            in caplog.text
        )

    def test_a_server_that_goes_down_keeps_what_it_has_said(self, tmp_path: Path) -> None:
        with judge_server(
            lambda prompt: "rating: 2",
            fault=lambda body, before: chat_server.cut if int(question_of(body)) >= 20 else None,
        ) as server:
            with pytest.raises(UserError, match="the server doesn't answer"):
                server_judge(server, tmp_path, concurrency=4, retries=0).ask(
                    asking(*map(str, range(100))), rating
                )
            known, answered = len(ReplyStore(tmp_path, "judge")), sum(server.answered.values())
            assert 16 <= answered - 4 <= known <= answered <= 20  # what was under way is given up
            server.fault = lambda body, before: None
            server_judge(server, tmp_path).ask(asking(*map(str, range(100))), rating)
            assert len(server.answered) == 100 and sum(server.answered.values()) == answered + 100 - known

    def test_kill_9(self, tmp_path: Path) -> None:
        """No prompt whose reply was stored is asked again; lost is at most what was under way."""
        with judge_server(lambda prompt: f"rating: {prompt}", delay=0.02) as server:
            process = ask_in_a_process(server, tmp_path, 150)
            while sum(server.answered.values()) < 40:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.1)  # the server ends what was under way
            store = ReplyStore(tmp_path, "judge")
            known, answered = len(store), sum(server.answered.values())
            assert answered - 4 <= known <= answered < 150
            judgements = server_judge(server, tmp_path).ask(asking(*map(str, range(150))), rating)
            assert [j.verdict for j in judgements] == list(range(150))
            assert len(server.answered) == 150 and sum(server.answered.values()) == answered + 150 - known
            assert len(rows(store)) == 150

    def test_three_processes_share_a_judge(self, tmp_path: Path) -> None:
        with judge_server(lambda prompt: f"rating: {prompt}", delay=0.01) as server:
            processes = [ask_in_a_process(server, tmp_path, 60) for _ in range(3)]
            assert [process.wait(60) for process in processes] == [0, 0, 0]
            assert (
                len(server.answered) == 60
                and set(server.answered.values()) == {1}
                and server.most_at_once <= 4
            )


def ask_in_a_process(server: ChatServer, folder: Path, count: int) -> subprocess.Popen[bytes]:
    """A process that asks for the verdicts of so many prompts, four at once."""
    script = (
        "import sys; from pathlib import Path\n"
        "from rlaifv_kedro.benchmarks.judgement import JudgeRequest\n"
        "from rlaifv_kedro.benchmarks.judging.judge import open_judge\n"
        "from rlaifv_kedro.params import ComputeParams, JudgeParams, ModelsParams\n"
        "url, folder, count = sys.argv[1:]\n"
        "models = ModelsParams(judge={'backend': 'openai', 'url': url, 'model': 'judge', 'concurrency': 4})\n"
        "judge = open_judge(models, JudgeParams(prices=None), ComputeParams(), Path(folder))\n"
        "judge.ask([JudgeRequest(str(i), 'rating', str(i)) for i in range(int(count))], str)\n"
    )
    return subprocess.Popen([sys.executable, "-c", script, server.url, str(folder), str(count)])


class TestOpening:
    def test_a_judge_in_this_process(self, tiny: Path, tmp_path: Path) -> None:
        """A multimodal LLM, asked without an image. What is stored needs no weights, and other weights are
        another judge.
        """
        models = ModelsParams(judge=TransformersParams(path=str(tiny)))
        params = JudgeParams(max_new_tokens=6, tries=1)
        compute = ComputeParams(device="cpu", dtype="float32")
        judge = open_judge(models, params, compute, tmp_path)
        requests = asking("is there a cup", "is there a dog")
        found = judge.ask(requests, str)
        judge.close()
        assert re.fullmatch(rf"{tiny}@[0-9a-f]{{12}}", judge.store.asked_model)
        stored = [j.stored for j in found]
        assert all(s.reply_tokens >= 1 and s.prompt_tokens > 3 and s.returned_model is None for s in stored)
        assert (
            StoredJudge(
                lambda: pytest.fail("nothing to ask"), ReplyStore(tmp_path, judge.store.asked_model), params
            ).ask(requests, str)
            == found
        )

    def test_a_judge_in_this_process_is_known_by_its_files(self, tmp_path: Path) -> None:
        weights, adapter = tmp_path / "weights", tmp_path / "adapter"
        for folder in (weights, adapter):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"1")
        plain = asked_model(TransformersParams(path=str(weights)))
        assert (
            asked_model(TransformersParams(path=str(weights), dtype="float32"))
            == plain
            != asked_model(TransformersParams(path=str(weights), adapter=str(adapter)))
        )
        (weights / "model.safetensors").write_bytes(b"23")
        assert asked_model(TransformersParams(path=str(weights))) != plain
        with pytest.raises(UserError, match=r"models.judge: there is no .*nothing. Mend path"):
            asked_model(TransformersParams(path=str(tmp_path / "nothing")))

    def test_no_judge_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="No judge is named. Set models.judge: .*docs/judges.md"):
            open_judge(ModelsParams(), JudgeParams(), ComputeParams(), tmp_path)

    def test_prices_of_the_file_count_in_the_account(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """100 + 7 tokens a reply, by the server: 0.0001 x 1000 + 0.000007 x 10000 = 0.17."""
        caplog.set_level(logging.INFO, "rlaifv_kedro")
        prices = tmp_path / "prices.yml"
        prices.write_text(
            "{currency: EUR, as_of: 2026-03, source: made up, models: {judge: {input: 1000, output: 10000}}}"
        )
        with judge_server(lambda prompt: "rating: 2") as server:
            models = ModelsParams(judge={"backend": "openai", "url": server.url, "model": "judge"})
            judge = open_judge(models, JudgeParams(prices=str(prices)), ComputeParams(), tmp_path / "store")
            judge.ask(asking("a"), rating)
            judge.close()
        assert "1 requests, 0 retries, 0 without an answer; 100 + 7 tokens; cost 0.17" in caplog.text


class TestDryRun:
    def test_counts_worked_by_hand(self, tmp_path: Path) -> None:
        """Stored: a (verdict), b (three replies without one). Of c one reply without a verdict is there: its
        second is to be asked. d, of 10 characters, 3 tokens, comes twice with seed 0 and once with seed 1. So
        3 calls, 1 + 3 + 3 tokens of prompts, 3 x 100 of replies; at 2 and 10 a million: (7 x 2 + 300 x 10) /
        10^6. With all tries c is asked twice and d thrice: 2 + 9 + 9 tokens of prompts, of replies 100 + 200
        and twice 100 + 200 + 200: (20 x 2 + 1300 x 10) / 10^6.
        """
        before = judge_of(
            Scripted({"a": ["rating: 1"], "b": ["x"] * 3, "c": ["x", Answer("", 0, "error", "down")]}),
            tmp_path,
            max_new_tokens=100,
        )
        before.ask(asking("a", "b", "c"), rating)
        dry = DryJudge(ReplyStore(tmp_path, "judge"), JudgeParams(max_new_tokens=100))
        judgements = dry.ask(
            [*asking("a", "b", "c", "d" * 10, "d" * 10), JudgeRequest("d", "run 2", "d" * 10, seed=1)], rating
        )
        assert [(j.verdict, j.error) for j in judgements[:3]] == [
            (1, None),
            (None, "the reply holds no verdict (replies: 3)"),
            (None, "not asked yet"),
        ]
        assert (dry.stored, dry.calls, dry.prompt_tokens, dry.reply_tokens) == (2, 3, 7, 300)
        assert dry.cost(Price(input=2, output=10)) == pytest.approx(0.003014)
        assert dry.most_cost(Price(input=2, output=10)) == pytest.approx(0.01304)
        assert dry.cost(None) is None and dry.most_cost(None) is None
        dry.ask(asking("d" * 10), rating)
        assert dry.calls == 3

    def test_no_judge_takes_more_than_all_tries(self, tmp_path: Path) -> None:
        """Of the worst replies, all cut off: what is asked for is what was estimated, token by token."""
        params = JudgeParams(max_new_tokens=100, tries=4)
        dry = DryJudge(ReplyStore(tmp_path, "judge"), params)
        dry.ask(asking("abcd"), rating)
        model = Scripted({"abcd": [Answer("rating: 1", 100, "length")] * 4})
        judge_of(model, tmp_path, max_new_tokens=100, tries=4).ask(asking("abcd"), rating)
        limits = [limit for _, _, _, limit in model.asked]
        assert limits == [100, 200, 200, 200]
        assert dry.most_cost(Price(input=0, output=1e6)) == sum(limits)
        assert dry.most_cost(Price(input=1e6, output=0)) == 4 * 1

    def test_other_scripts_take_more_tokens(self, tmp_path: Path) -> None:
        """4 Latin letters a token, with accents or not; a Chinese character is one."""
        for prompt, tokens in (("abcdé", 2), ("图中有猫吗？", 6), ("cat 猫", 2), ("", 0)):
            dry = DryJudge(ReplyStore(tmp_path, "judge"), JudgeParams())
            dry.ask(asking(prompt), rating)
            assert dry.prompt_tokens == tokens

    def test_the_project_s_prices(self) -> None:
        table = PriceTable.read(ROOT / "conf/judge_prices.yml")
        assert table.currency == "USD" and table.price("gpt-4o") == table.price("gpt-4o-2024-08-06") == Price(
            input=2.5, output=10
        )
        assert table.price("gpt-4o-tuned") is None and table.price("Qwen2.5-7B") is None
        assert all(0 < price.input < price.output < 1000 for price in table.models.values())

    def test_whose_price_counts(self, tmp_path: Path) -> None:
        prices = ROOT / JudgeParams().prices
        served = {"backend": "openai", "url": "http://127.0.0.1:1/v1", "model": "gpt-4o"}
        assert price_of(OpenAIParams(**served), prices) == Price(input=2.5, output=10)
        assert price_of(OpenAIParams(**served, price_input=1), prices) == Price(input=1, output=0)
        assert price_of(OpenAIParams(**served), None) is None
        assert price_of(TransformersParams(path="gpt-4o"), prices) is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "can't read the prices: .*No such file"),
            ("a: [", "can't read the prices"),
            ("a: " + "[" * 3000, "can't read the prices"),
            ("currency: USD\ncurrency: EUR\n", "can't read the prices: .*duplicate key currency"),
            ("as_of: 2026-02-30", "no table of prices: currency"),
            ("3", "can't read the prices: Invalid loaded object type: int"),
            ("[3]", "no table of prices: the whole file: "),
            (
                "{currency: USD, as_of: 2026-03, source: x, models: {a: {input: -1, output: 2}}}",
                "no table of prices: models.a.input: ",
            ),
            (
                "{currency: USD, as_of: 2026-03, source: x, models: {a: {input: .inf, output: 2}}}",
                "no table of prices: models.a.input: ",
            ),
        ],
    )
    def test_damaged_prices(self, tmp_path: Path, text: str | None, message: str) -> None:
        path = tmp_path / "prices.yml"
        if text is not None:
            path.write_text(text)
        with pytest.raises(UserError, match="(?s)" + message):
            PriceTable.read(path)


def test_the_table_of_judgements(tmp_path: Path) -> None:
    """Verdicts as text, what failed with its reason and last reply; it can be written."""
    broken = Answer("", 0, "error", "down")
    verdicts = {"a": "[[A]]", "b": 3, "c": ["cat", "dog"]}
    judge = judge_of(
        Scripted({"a": ["a"], "b": ["b"], "c": ["c"], "d": ["?", "?", "?"], "e": [broken]}), tmp_path
    )
    found = judge.ask(asking("a", "b"), verdicts.get) + judge.ask(asking("c", "d", "e"), verdicts.get)
    table = judgement_table("a policy", "refomb", found)
    (tmp_path / "judgements.parquet").write_bytes(table_content("judgements", table, "here"))
    checked = check("judgements", pd.read_parquet(tmp_path / "judgements.parquet"), "here")
    assert checked["verdict"].fillna("-").tolist() == ["[[A]]", "3", '["cat", "dog"]', "-", "-"]
    assert checked["reply"].fillna("-").tolist() == ["a", "b", "c", "?", "-"]
    assert checked["error"].fillna("-").tolist() == ["-"] * 3 + [
        "the reply holds no verdict (replies: 3)",
        "no reply: down",
    ]
    assert checked["replies"].tolist() == [1, 1, 1, 3, 0]
    assert checked["reply_tokens"].tolist()[:4] == [5] * 4 and checked["prompt_tokens"].isna().tolist() == [
        False
    ] * 4 + [True]
    assert checked.loc[0, "prompt_hash"] == hash_of("a") and set(checked["benchmark"]) == {"refomb"}


def test_an_item_is_judged_once_a_step(tmp_path: Path) -> None:
    judge = judge_of(Scripted({"a": ["x"]}), tmp_path)
    found = judge.ask(asking("a", "a"), str)
    with pytest.raises(
        UserError, match="the key policy=a policy, benchmark=mmhal, item_id=a, step=rating comes twice"
    ):
        check("judgements", judgement_table("a policy", "mmhal", found), "here")


def test_no_judgements_are_a_table_too() -> None:
    nothing: Iterable[Any] = ()
    assert check("judgements", judgement_table("a policy", "mmhal", nothing), "here").empty


def test_a_judge_that_replies_to_nothing_ends_the_scoring(tmp_path: Path) -> None:
    """One of several requests without a reply has failed; if none has one, the scores would mean nothing."""
    broken = Answer("", 0, "error", "HTTP 400: no")
    some, none = Scripted({"a": ["a"], "b": [broken]}), Scripted({"c": [broken], "d": [broken]})
    found = judge_of(some, tmp_path / "some").ask(asking("a", "b"), {"a": "A"}.get)
    assert [j.error for j in found] == [None, "no reply: HTTP 400: no"]
    with pytest.raises(UserError, match=r"none of 2 requests has a reply, the last: no reply: HTTP 400: no"):
        judge_of(none, tmp_path / "none").ask(asking("c", "d"), {}.get)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (chat_server.endless, "what the server sends is longer than 8 MiB"),
        (chat_server.status(400, "this server is tired"), "HTTP 400: this server is tired"),
        (chat_server.moved("http://127.0.0.1:1/v1"), "sends requests on to http://127.0.0.1:1/v1"),
    ],
    ids=["endless", "HTTP 400", "moved"],
)
def test_a_server_that_only_misbehaves_ends_the_judging(fault: Fault, why: str, tmp_path: Path) -> None:
    """As it stops the feedback: with its reason, and after few requests."""
    with judge_server(str, fault=lambda body, before: fault) as server:
        judge = {"backend": "openai", "url": server.url, "model": "judge", "retries": 0}
        opened = open_judge(
            ModelsParams(judge=judge), JudgeParams(prices=None), ComputeParams(), tmp_path / "store"
        )
        with pytest.raises(UserError, match=why):
            opened.ask(asking(*"abcdefghijkl"), {}.get)
    assert len(server.bodies) <= 12 and len(opened.store) == 0
