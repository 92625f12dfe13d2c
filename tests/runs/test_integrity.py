"""Recorded hashes are enforced, and what is made again goes forward: runs of a small project."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry
from rlaifv_kedro.runs.outdated import all_outdated, outdated
from rlaifv_kedro.runs.resume_command import whole_command
from toy_project import CATALOG, NODES, REGISTRY, ToyProject

CHUNKS = ["chunk p0", "chunk p2", "chunk p4", "chunk p6"]
KINDS = {
    "table": "data/prompts.parquet/{run}/prompts.parquet",
    "chunk": "data/candidates/{run}/candidates/00001.parquet",
    "marker": "data/candidates/{run}/candidates/_complete.json",
    "document": "data/scored.json/{run}/scored.json",
}


def flipped(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a bit in the middle": lambda path, _: flipped(path, 0.5),
    "the first bit": lambda path, _: flipped(path, 0),
    "the last bit": lambda path, _: flipped(path, 1),
    "cut off": lambda path, _: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "of another run": lambda path, other: path.write_bytes(other.read_bytes()),
    "deleted": lambda path, _: path.unlink(),
}
QUICK = {
    ("table", "the first bit"),
    ("chunk", "a bit in the middle"),
    ("chunk", "deleted"),
    ("marker", "of another run"),
    ("document", "emptied"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A project with the finished runs `whole`, and `other` with other questions."""
    project = ToyProject(tmp_path_factory.mktemp("toy"))
    assert project.run("run_id=other,count=8").returncode == 0
    assert project.run("run_id=whole").returncode == 0
    project.calls()
    return project


def place(toy: ToyProject, kind: str, run: str = "whole") -> Path:
    return toy.path / KINDS[kind].format(run=run)


def said(done) -> str:
    """What the terminal shows, in one line and without a traceback."""
    output = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in output, output
    return output


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param(kind, how, marks=() if (kind, how) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for how in DAMAGES
    ],
)
def test_a_damaged_artifact_is_named_or_made_again_with_the_same_bytes(toy, kind, how):
    """Whoever follows the message ends with the bytes that there were."""
    before, path = toy.files("whole"), place(toy, kind)
    DAMAGES[how](path, place(toy, kind, "other"))
    done = toy.run("run_id=whole")
    output = said(done)
    assert (done.returncode == 1) == (toy.files("whole") != before), output
    if done.returncode:
        relative = re.escape(str(path.relative_to(toy.path)))
        assert re.search(rf"is not what run `whole` wrote: .*{relative} (has changed|is not of)", output)
        (command,) = re.findall(r"make (?:it|them) with: rm -r (\S+) && kedro run (.*run_id=whole)", output)
        (toy.path / command[0]).unlink()
        done = toy.run("", *shlex.split(command[1]))
        assert done.returncode == 0, done.stderr
    assert toy.files("whole") == before
    assert set(toy.calls()) <= {"make_prompts", "chunk p2", "score"}


def test_a_stage_run_names_the_damage_of_another_run_with_its_command(toy):
    path = place(toy, "chunk")
    whole = path.read_bytes()
    flipped(path, 0.5)
    done = toy.run("run_id=stage", "--pipelines", "feedback")
    assert done.returncode == 1
    shown = path.relative_to(toy.path)
    assert (
        f"`candidates` is not what run `whole` wrote: {shown} has changed. Remove and make it with: rm -r "
        f"{shown} && kedro run --params run_id=whole"
    ) in said(done)
    assert not (toy.path / "data/runs/stage").exists() and toy.calls() == []
    path.write_bytes(whole)


def test_a_hash_is_not_overwritten_with_a_damaged_files(toy):
    before = toy.manifest("whole")
    path = place(toy, "document")
    whole = path.read_bytes()
    flipped(path, 0.5)
    for _ in range(2):
        assert toy.run("run_id=whole").returncode == 1
    assert toy.manifest("whole") == before
    path.write_bytes(whole)
    assert toy.run("run_id=whole").returncode == 0


def test_an_input_that_was_deleted_is_missed_only_where_something_is_made_of_it(tmp_path):
    toy = ToyProject(tmp_path)
    assert toy.run("run_id=whole").returncode == 0
    assert toy.run("run_id=stage", "--pipelines", "feedback").returncode == 0
    before = toy.files("whole")
    shutil.rmtree(toy.path / "data/candidates/whole")
    toy.calls()
    assert toy.run("run_id=stage", "--pipelines", "feedback").returncode == 0
    assert toy.calls() == []
    place(toy, "document", "stage").unlink()
    output = said(toy.run("run_id=stage", "--pipelines", "feedback"))
    assert "`candidates` is not there: data/candidates/whole/candidates" in output
    assert "Make it with: kedro run --params run_id=whole" in output
    assert toy.run("run_id=whole").returncode == 0
    assert toy.run("run_id=stage", "--pipelines", "feedback").returncode == 0
    assert toy.files("whole") == before
    assert toy.files("stage").items() <= before.items()


def test_what_runs_add_to_a_shared_folder_stops_none_of_them(tmp_path):
    """As a judge's replies: a run that has added some goes on, and so does one beside which others did."""
    toy = ToyProject(tmp_path)
    ask = "def ask(replies):\n    (replies / 'one').write_text('yes')\n    return {'asked': 1}\n"
    (toy.path / "src/toy/nodes.py").write_text(f"{NODES}\n\n{ask}")
    registry = REGISTRY.replace("import audit", "import ask, audit")
    one = 'return {"ask": Pipeline([node(ask, "replies", "scored", name="ask")]), '
    (toy.path / "src/toy/pipeline_registry.py").write_text(registry.replace("return {", one))
    shared = "replies:\n  type: rlaifv_kedro.datasets.SharedFolderDataset\n  filepath: data/replies\n"
    (toy.path / "conf/base/catalog.yml").write_text(CATALOG + shared)
    for _ in range(2):
        assert toy.run("run_id=asking", "--pipelines", "ask").returncode == 0
        place(toy, "document", "asking").unlink()
        (toy.path / "data/replies/two").write_text("no")


def nodes(toy: ToyProject, old: str = "", new: str = "") -> None:
    """Other software: the nodes make something else from now on."""
    assert old in NODES
    (toy.path / "src/toy/nodes.py").write_text(NODES.replace(old, new))


def test_what_was_made_of_something_that_came_out_otherwise_is_made_again(tmp_path):
    """The same start goes on until the run is of one piece; what came out as before costs nothing more."""
    toy = ToyProject(tmp_path)
    assert toy.run("run_id=whole").returncode == 0
    assert toy.run("run_id=stage", "--pipelines", "feedback").returncode == 0
    before = toy.files("whole")
    toy.calls()

    place(toy, "table").unlink()
    nodes(toy, "Question {i}?", "Question {i}!")
    output = said(toy.run("run_id=whole"))
    assert "`prompts` (data/prompts.parquet/whole/prompts.parquet) was made again" in output
    # The candidates don't depend on the questions' words: what was made of them stays.
    assert toy.calls() == ["make_prompts", *CHUNKS]
    changed = [name for name, content in toy.files("whole").items() if before[name] != content]
    assert changed == ["data/prompts.parquet/RUN/prompts.parquet"]
    assert toy.run("run_id=stage", "--pipelines", "feedback").returncode == 0

    place(toy, "chunk").unlink()
    nodes(toy, "answer {i} {n}", "other {i} {n}")
    output = said(toy.run("run_id=whole"))
    assert "`scored` was made of an earlier `candidates`" in output
    assert "Runs that have read the earlier one: stage" in output
    assert toy.calls() == ["chunk p2", "score"]
    output = said(toy.run("run_id=stage", "--pipelines", "feedback"))
    assert "`candidates` has changed since run `stage` read it: data/candidates/whole" in output
    assert toy.run("run_id=whole").returncode == 0 and toy.calls() == []


def test_a_kill_before_it_is_made_again_changes_nothing(tmp_path):
    """Neither where the table that comes next had been finished, nor where half of its chunks were."""
    toy = ToyProject(tmp_path)
    assert toy.run("run_id=whole").returncode == 0
    place(toy, "table").unlink()
    nodes(toy, "for i in range(count)]\n", "for i in range(1, count + 1)]\n")
    toy.calls()
    (toy.path / "die_at_p3").touch()
    assert toy.run("run_id=whole").returncode == -9
    (toy.path / "die_at_p3").unlink()
    assert toy.calls() == ["make_prompts", "chunk p1", "chunk p3"]

    # And now the prompts of the beginning: the one chunk that is there was not made of these.
    place(toy, "table").unlink()
    nodes(toy)
    assert toy.run("run_id=whole").returncode == 0
    assert toy.calls() == ["make_prompts", *CHUNKS]
    fresh = ToyProject(tmp_path / "fresh")
    assert fresh.run("run_id=whole").returncode == 0
    assert toy.files("whole") == fresh.files("whole")


def run_with(read: dict[str, Entry], written: dict[str, Entry]) -> manifests.Manifest:
    return manifests.Manifest(
        run_id="r",
        started="2026-01-01T00:00:00+00:00",
        pid=1,
        host="h",
        command="kedro run",
        pipelines=["p"],
        parameters={},
        read=read,
        written=written,
        packages={},
        python="3",
    )


def entry(sha256: str | None, **made_of: str) -> Entry:
    return Entry(path="p", version="r", sha256=sha256, made_of=made_of)


def test_only_what_was_made_of_other_content_is_outdated():
    """b was made of an earlier a, c of b; d of what it says, e of something that is being made, f long ago."""
    written = {
        "a": entry("2"),
        "b": entry("b", a="1"),
        "c": entry("c", b="b"),
        "d": entry("d", a="2", x="x"),
        "e": entry("e", g="g"),
        "f": entry("f"),
        "g": entry(None),
    }
    run = run_with({"x": entry("x"), "a": entry("1")}, written)
    assert outdated(run) == {"b": "a"}
    assert all_outdated(run) == {"b": "a", "c": "b"}


@pytest.mark.parametrize(
    ("command", "pipelines", "expected"),
    [
        ("kedro run", ["__default__"], "kedro run"),
        ("kedro run --params run_id=r", ["__default__"], "kedro run --params run_id=r"),
        (
            "kedro run --env test --pipelines b --nodes b.x --params 'run_id=r,a=\"b c\"'",
            ["a", "b"],
            "kedro run --env test --pipelines a,b --params 'run_id=r,a=\"b c\"'",
        ),
    ],
)
def test_the_command_for_all_that_a_run_has_made(command, pipelines, expected):
    assert whole_command(command, pipelines) == expected
