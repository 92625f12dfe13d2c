"""``rlaifv rm``: it says what goes and what stays, and asks."""

from click.testing import CliRunner

from measured_runs import measure
from rlaifv_kedro.commands import cli
from rlaifv_kedro.runs.manifest import Entry, load


def test_it_says_what_stays_and_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure(tmp_path, "first", {"t0": "There is a cat."})
    answers = "data/iteration_1/answers/first/answers.parquet"
    measure(tmp_path, "second", {"t0": "A dog."}, read={"n": Entry(path=answers, version="first")})
    done = CliRunner().invoke(cli, ["rm", "first"], input="n\n")
    assert done.exit_code == 1 and "Aborted" in done.output and load(tmp_path, "first").status == "finished"
    assert "Run first: artifacts that go: 2, 0.0 MB." in done.output
    assert "  that stay, since other runs build on them: 1 (second)\n" in done.output
    assert "    data/iteration_1/answers/first\n" in done.output
    assert CliRunner().invoke(cli, ["rm", "first", "second", "--yes"]).exit_code == 0
    assert load(tmp_path, "first") is None and load(tmp_path, "second") is None
    assert CliRunner().invoke(cli, ["rm", "first"]).stderr.startswith("Error: There is no run `first`.")
