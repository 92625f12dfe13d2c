"""Passwords and keys are in nothing that a run or a command wrote: every file, and what the terminal shows."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import chat_server
from chat_server import Body, ChatServer, completion, question_of
from whole_project import Project, make_project

SECRETS = {
    "key": "sk-planted/0123+key",
    "proxy": "planted-proxy-word",
    "credentials": "planted-store-word",
    "url": "planted-url-word",
    "typed": "planted-typed-word",
}
MMHAL = [
    {
        "question_type": kind,
        "question_topic": "x",
        "image_id": f"i{n}",
        "image_content": ["Cat"],
        "question": "What?",
        "gt_answer": "A cat.",
        "model_answer": answer,
    }
    for n, (kind, answer) in enumerate([("attribute", "A dog."), ("adversarial", "An echo.")])
]
ECHO = "who sent Authorization: Bearer {key}? See http://user:{key}@host/?api_key={quoted}"


def forms(secret: str) -> set[bytes]:
    """A secret as files may hold it: as it is, quoted, in JSON, and in base64 from any of three bytes on."""
    plain = secret.encode()
    encoded = set()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + plain).rstrip(b"=")
        # Without the characters that hold bits of what stands before and behind it.
        encoded.add(whole[(0, 2, 3)[before] : -1 if (before + len(plain)) % 3 else None])
    return {plain, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), *encoded}


def found_in(content: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() if any(form in content for form in forms(secret))]


def reply(body: Body) -> Body:
    """Of a labeler that sees dogs alone, and of a judge that rates all alike."""
    return completion(
        "Rating: 3", top={"yes": -0.1, "no": -3.0} if "dog" in question_of(body) else {"no": -0.1}
    )


def echoing(body: Body, before: int) -> chat_server.Fault | None:
    """Whoever asks the model ``echo``, or about an echo, is told its key."""
    key = SECRETS["key"]
    told = chat_server.status(400, ECHO.format(key=key, quoted=quote(key, safe="")))
    return told if body["model"] == "echo" or "An echo." in question_of(body) else None


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, ChatServer]]:
    """A project with a key, a proxy, credentials and temporary files of its own."""
    folder = tmp_path_factory.mktemp("secrets") / "project"
    project = make_project(folder)
    (folder / "conf/test/credentials.yml").write_text(f"store:\n  password: {SECRETS['credentials']}\n")
    (folder / "conf/test/catalog.yml").write_text(
        "extra:\n  type: pandas.CSVDataset\n  filepath: data/extra.csv\n  credentials: store\n"
    )
    (folder / "mmhal").mkdir()
    (folder / "mmhal/mmhal.json").write_text(json.dumps(MMHAL))
    (folder / "data/tmp").mkdir(parents=True)
    surroundings = {
        "OPENAI_API_KEY": SECRETS["key"],
        "HTTPS_PROXY": f"http://user:{SECRETS['proxy']}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "TMPDIR": str(folder / "data/tmp"),
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        ChatServer(("tiny", "echo"), SECRETS["key"], echoing, reply) as server,
    ):
        for name, value in surroundings.items():
            patch.setenv(name, value)
        yield project, server


def test_a_run_and_every_command_keep_secrets_out_of_all_that_they_write(
    planted: tuple[Project, ChatServer],
) -> None:
    project, server = planted
    labeler = f"models.labeler.backend=openai,models.labeler.url={server.url},models.labeler.model="
    judge = labeler.replace("labeler", "judge") + "tiny"
    score = (
        "score",
        "mmhal",
        "--answers",
        "mmhal/mmhal.json",
        "--annotations",
        "mmhal",
        "--env",
        "test",
        "--params",
    )
    stage = ("--to-outputs", "iteration_1.preference_pairs", "--params")
    said = {
        "run": project.kedro(*stage, f"run_id=good,{labeler}tiny"),
        "failed": project.kedro(*stage, f"run_id=bad,{labeler}echo,feedback.max_reject_share=0.5", expect=1),
        "check": project.rlaifv("check", "--env", "test", "--params", f"{labeler}tiny", expect=1),
        "refused": project.rlaifv("check", "--env", "test", "--params", f"{labeler}other", expect=1),
        "score": project.rlaifv(*score, judge),
        "cost": project.rlaifv("judge-cost", "--run", "good", "--params", judge, expect=1),
        "url": project.kedro("--params", f"models.judge.backend=openai,models.judge.model=tiny,models.judge.url=http://user:{SECRETS['url']}@127.0.0.1/v1", expect=1),
        "typed": project.rlaifv("check", "--env", "test", "--params", f"{judge},models.judge.api_key={SECRETS['typed']}", expect=1),
    }  # fmt: skip
    assert f"Bearer {SECRETS['key']}" in server.keys
    assert "HTTP 400: who sent Authorization: Bearer ***" in said["failed"] and "***" in said["score"]
    assert "a user or password" in said["url"] and "api_key: unknown parameter" in said["typed"]
    shown = {name: found_in(text.encode()) for name, text in said.items()}
    assert not any(shown.values()), shown
    planted_here = {project.path / "conf/test/credentials.yml"}
    written = [p for p in project.path.rglob("*") if p.is_file() and p not in planted_here]
    assert len([p for p in written if "bad" in p.parts]) > 3 and len(written) > 100
    kept = {str(path): found_in(path.read_bytes()) for path in written}
    assert not any(kept.values()), {path: names for path, names in kept.items() if names}


def test_the_search_finds_every_form(tmp_path: Path) -> None:
    """The test above could fail."""
    key = SECRETS["key"]
    for k in range(3):
        assert found_in(base64.b64encode(os.urandom(k + 3) + key.encode() + b"more")) == ["key"]
    assert found_in(f"x {key} {quote(SECRETS['url'])}".encode()) == ["key", "url"] and not found_in(
        b"planted"
    )
