"""``rlaifv view``: which run it takes, what it says, and what it serves."""

import threading
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlaifv_kedro.commands import cli
from rlaifv_kedro.runs.footprint import folders_of
from rlaifv_kedro.viewer.serving import server_of
from viewed_runs import viewed_run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data/runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_newest_run_is_written_and_its_address_said(project: Path) -> None:
    first, second = viewed_run(project, "first"), viewed_run(project, "second")
    done = CliRunner().invoke(cli, ["view"], catch_exceptions=False)
    page = project / "data/08_reporting/viewer/second/viewer/index.html"
    assert page.is_file()
    assert done.output.splitlines() == [
        "1 pictures can't be read; their places say so.",
        f"Run second: 70 prompts and 6 measured answers. Open in a browser: {page.as_uri()}",
    ]
    assert page.parent.parent in folders_of(project, [first, second])["second"]  # so `rlaifv rm` removes it
    CliRunner().invoke(cli, ["view", "first", "--out", "there"], catch_exceptions=False)
    assert (project / "there/data/run.js").is_file()


def test_a_run_that_is_not_there(project: Path) -> None:
    assert "kedro run" in CliRunner().invoke(cli, ["view"]).output
    viewed_run(project, "first")
    assert "Did you mean first" in CliRunner().invoke(cli, ["view", "firts"]).output


def test_a_run_is_named_from_elsewhere_by_its_folder(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewed_run(project, "first")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    CliRunner().invoke(cli, ["view", str(project / "data/runs/first")], catch_exceptions=False)
    assert (project / "data/08_reporting/viewer/first/viewer/index.html").is_file()
    assert "not inside a Kedro project" in CliRunner().invoke(cli, ["view", "first"]).output
    assert "no run's folder" in CliRunner().invoke(cli, ["view", f"{project}/first"]).output


def test_two_runs_are_compared_and_peoples_labels_read(project: Path) -> None:
    viewed_run(project, "first")
    viewed_run(project, "second")
    (project / "people.jsonl").write_text('{"item_id": "p0/0/0", "verdict": "yes"}\n')
    asked = ["view", "second", "--against", "first", "--truth", "people.jsonl", "--out", "there"]
    assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
    assert (project / "there/data/compare.js").is_file()
    assert "people's labels, people.jsonl" in (project / "there/data/run.js").read_text()


def test_it_is_served_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here")
    with server_of(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/") as reply:
            assert reply.read() == b"here"
        server.shutdown()
