"""Every command at whose options files are named, with a pipe, a device and a folder in their place."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlaifv_kedro.commands import cli

COMMANDS = [
    ("score", "chair", "--answers", "{odd}", "--annotations", "empty"),
    ("score", "chair", "--answers", "answers.jsonl", "--annotations", "{odd}"),
    ("score", "mmhal", "--answers", "answers.jsonl", "--judgements", "{odd}"),
    ("calibrate", "--judgements", "{odd}", "--reference", "known.jsonl"),
    ("calibrate", "--judgements", "known.jsonl", "--reference", "{odd}"),
    ("chat", "--model", "empty", "--image", "{odd}", "--question", "What is this?"),
    ("chat", "--model", "{odd}", "--image", "{odd}", "--question", "What is this?"),
    ("merge", "--adapter", "{odd}", "--out", "out"),
]
ODD = ["pipe", "pipe.jsonl", "pipe.parquet", "pipe.csv", "zero", "zero.jsonl", "folder.jsonl"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD:
        if name.startswith("pipe"):
            os.mkfifo(name)  # would wait for ever
        elif name.startswith("zero"):
            Path(name).symlink_to("/dev/zero")  # has no end
        else:
            Path(name).mkdir()
    Path("empty").mkdir()
    Path("answers.jsonl").write_text('{"image_id": 1, "answer": "a dog"}\n')
    Path("known.jsonl").write_text('{"item_id": "a", "verdict": "yes"}\n')


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_a_command_refuses_what_is_no_regular_file(command: tuple[str, ...], odd: str) -> None:
    done = CliRunner().invoke(cli, [part.format(odd=odd) for part in command])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
    assert odd in " ".join(done.stderr.split()), done.stderr
