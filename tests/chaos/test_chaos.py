"""The trial itself: that it notices what must never be, and follows advice as a person would; a few trials."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from chaos_report import Report
from ground import Kept, artifacts, differences
from settling import NAMED, OTHER, SAME, Outcome, Trial, fault_of, follow, message_of
from spoiling import CHANGES, spoil

from fatal_operations import WHENS

HERE = Path(__file__).parent
SCRIPT = """
import os, sys
from pathlib import Path
from fatal_operations import Operations

folder = Path("data")
folder.mkdir()
Operations(folder, int(sys.argv[1]), sys.argv[2]).install()
Path("outside.txt").write_text("not counted")
with open("data/.a.tmp", "w") as file:
    file.write("0123456789")
    file.flush()
    os.fsync(file.fileno())
os.replace("data/.a.tmp", "data/a")
"""


def died(tmp_path: Path, at: int, act: str) -> tuple[int, dict[str, str]]:
    """A process that opens, syncs and replaces a file: how it ended, and what it left."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(at), act],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE.parent / "helpers")},
        capture_output=True,
        check=False,
    )
    return done.returncode, {path.name: path.read_text() for path in (tmp_path / "data").iterdir()}


@pytest.mark.parametrize(
    ("at", "act", "left"),
    [
        (1, "before", {}),
        (1, "after", {".a.tmp": ""}),
        (2, "before", {".a.tmp": "0123456789"}),
        (2, "torn", {".a.tmp": "01234"}),
        (3, "before", {".a.tmp": "0123456789"}),
        (2, "power", {".a.tmp": ""}),
        (3, "power", {".a.tmp": "0123456789"}),
        (3, "after", {"a": "0123456789"}),
    ],
)
def test_a_process_dies_at_the_operation(tmp_path: Path, at: int, act: str, left: dict[str, str]) -> None:
    assert act in WHENS
    assert died(tmp_path, at, act) == (-9, left)


def test_a_full_disk_stays_full(tmp_path: Path) -> None:
    status, left = died(tmp_path, 2, "full")
    assert status == 1 and ".a.tmp" in left


def test_a_disk_that_fills_later_is_no_hindrance(tmp_path: Path) -> None:
    assert died(tmp_path, 4, "full") == (0, {"a": "0123456789"})


@pytest.mark.parametrize("seed", range(40))
def test_spoiling_changes_one_file(tmp_path: Path, seed: int) -> None:
    names = ["one.json", "two.json", "three.bin"]
    for name in names:
        (tmp_path / name).write_bytes(f"the content of {name}".encode())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = spoil(tmp_path, "one.json", names, random.Random(seed))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.get("one.json") != before["one.json"] and said.startswith("one.json: ")
    assert {name: after[name] for name in names[1:]} == {name: before[name] for name in names[1:]}


def test_all_ways_of_spoiling_are_met(tmp_path: Path) -> None:
    said = set()
    for seed in range(200):
        (tmp_path / "a").write_bytes(b"some content")
        (tmp_path / "b").write_bytes(b"other content")
        said.add(spoil(tmp_path, "a", ["a", "b"], random.Random(seed)))
    assert said == {f"a: {way}" for way in [*CHANGES, "deleted", "the content of b"]}


def test_what_differs_is_said() -> None:
    was = {
        "data/x/run/x": Kept("1", 0),
        "data/y/run/y": Kept("2", 0),
        "data/runs/run/manifest.json": Kept("3", 0),
    }
    now = {"data/x/run/x": Kept("9", 5), "data/z/run/.left.tmp": Kept("7", 0)}
    assert differences(artifacts(was, "run"), artifacts(now, "run")) == [
        "data/y/y is gone",
        "data/x/x is another",
    ]


@pytest.mark.parametrize(
    ("status", "output", "part"),
    [
        (None, "", "still running"),
        (1, "Traceback (most recent call last)\nError: x", "a traceback"),
        (-11, "", "ended by signal 11"),
        (1, "nothing", "with 0 messages"),
        (1, "Error: a\nError: b", "with 2 messages"),
    ],
)
def test_the_third_thing_is_noticed(status: int | None, output: str, part: str) -> None:
    assert part in fault_of(status, output)
    assert fault_of(1, "log\nError: one message") == fault_of(0, "log") == ""


def test_advice_is_followed(tmp_path: Path) -> None:
    """Paths that the messages name are deleted; others, and those outside data, are left."""
    trial = Trial(tmp_path, tmp_path)
    for name in ("one", "two", "three", "four"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert follow(trial, "data/one/x is damaged. Delete data/one, and start again.")
    assert follow(trial, "data/two is no checkpoint. Delete what is left of it and start again.")
    assert follow(trial, "It has changed. Make it again with: rm -r data/three")
    assert not follow(trial, "Something is wrong. Nobody knows what to do.")
    assert not follow(trial, "Delete /etc/data/passwd")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["four"]
    assert message_of("log\nError: Delete it.\n") == "Delete it."


def test_the_report_counts_and_names() -> None:
    report = Report(7)
    report.add("clock/0", Outcome(SAME, 2, ("killed",)))
    report.add("clock/1", Outcome(NAMED, 1, ()))
    assert not report.failed()
    report.add("twice/0", Outcome(OTHER, 1, ("two starts",), "a traceback"))
    assert report.failed()
    text = report.text()
    assert "| clock | 2 | 3 | 1 | 1 | 0 |" in text and "| all | 3 | 4 | 1 | 1 | 1 |" in text
    assert "--seed 7 --only twice/0" in text and "a traceback" in text


@pytest.mark.chaos
def test_a_few_trials(tmp_path: Path) -> None:
    """One trial of each of some kinds; the trial's own preparation holds forked runs to real ones."""
    report = tmp_path / "report.md"
    chosen = "kill-moment,kill-operation,damage-resume,twice"
    done = subprocess.run(
        [sys.executable, str(HERE), "--trials", "4", "--kinds", chosen, "--report", str(report)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 4 |" in report.read_text()
