"""The commands: how they are reached, listed and explained, and what they import."""

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run

from rlaifv_kedro.__main__ import main
from rlaifv_kedro.commands import SECTIONS, cli
from rlaifv_kedro.commands.options import params_option
from rlaifv_kedro.commands.terminal import Command

ROOT = Path(__file__).parents[2]
NAMES = [
    "check",
    "plan",
    "run",
    "runs",
    "summary",
    "compare",
    "view",
    "graph",
    "rm",
    "chat",
    "merge",
    "score",
    "judge-cost",
    "calibrate",
]


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_console_script_is_the_group_of_all_commands() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["rlaifv"].partition(":")
    assert getattr(import_module(module), name) is cli
    assert list(cli.commands) == NAMES


def test_commands_are_listed_by_job_with_a_whole_line_each() -> None:
    shown = CliRunner().invoke(cli, [], prog_name="rlaifv")
    assert shown.exit_code == 0
    listed = shown.output
    lines = [line.strip() for line in listed.splitlines()]
    for title, commands in SECTIONS.items():
        begin = lines.index(f"{title}:")
        assert [line.split()[0] for line in lines[begin + 1 : begin + 1 + len(commands)]] == [
            command.name for command in commands
        ]
    assert "..." not in listed.partition("Before a run:")[2]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "run"])
def test_the_example_of_a_help_is_a_command_line_that_can_be_given(name: str) -> None:
    """Each example is parsed by the command itself; nothing is run."""
    import shlex

    command = cli.commands[name]
    shown = CliRunner().invoke(cli, [name, "--help"]).output
    assert "For example:" in shown
    examples = [line.strip() for line in command.epilog.splitlines() if line.strip().startswith("rlaifv ")]
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" <")[0])
        assert words[:2] == ["rlaifv", name]
        command.make_context(name, words[2:])


def test_the_list_of_commands_imports_no_library_and_prints_nothing_else(tmp_path: Path) -> None:
    heavy = (
        "torch",
        "transformers",
        "spacy",
        "pandas",
        "pyarrow",
        "omegaconf",
        "rich",
        "kedro.framework.project",
    )
    code = (
        "import sys; from rlaifv_kedro.commands import cli; cli(['--help'], standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.startswith("Usage: ")
    assert (done.stdout.splitlines()[-1], done.stderr) == ("[]", "")


def test_the_list_of_pipelines_needs_no_heavy_package(tmp_path: Path) -> None:
    """``kedro registry list`` answers at once: torch and the like are imported where they are used."""
    heavy = ("torch", "transformers", "spacy", "deepspeed", "inflect", "matplotlib", "openai")
    code = (
        "import sys, rlaifv_kedro.pipeline_registry as r; r.register_pipelines(); print([name for name "
        f"in {heavy} if name in sys.modules])"
    )
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_kedro_has_the_same_commands() -> None:
    listed = python("-m", "kedro", "--help", cwd=ROOT).stdout
    ours = listed.partition("from rlaifv_kedro")[2].partition("from kedro")[0]
    assert all(f"  {name} " in ours for name in NAMES)
    of_kedro, of_the_package = (
        python("-m", program, "runs", "--json", cwd=ROOT).stdout for program in ("kedro", "rlaifv_kedro")
    )
    assert json.loads(of_kedro) == json.loads(of_the_package)
    assert "NAME=VALUE,..." in python("-m", "kedro", "run", "--help", cwd=ROOT).stdout


@pytest.mark.parametrize("given", [["run", "--pipelines", "a,b"], ["--pipelines", "a,b"]])
def test_options_without_a_command_are_those_of_run(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """As of every packaged Kedro project: ``python -m PACKAGE --pipelines ...``."""
    seen = []
    monkeypatch.setattr(kedro_run, "callback", lambda **options: seen.append(options))
    done = CliRunner().invoke(cli, [*given, "--params", "run_id=0123,seed=2", "--params", "run_id=012"])
    assert done.exit_code == 0, done.output
    main([*given[-2:], "--params", "run_id=012,seed=2"], standalone_mode=False)
    assert [(one["pipelines"], one["params"]) for one in seen] == [
        (["a", "b"], {"run_id": "012", "seed": 2}),
        (["a", "b"], {"run_id": "012", "seed": 2}),
    ]


@pytest.mark.parametrize(
    "written", ["params: 'run_id=0123,seed=2'", "params: {run_id: '0123', seed: 2}"], ids=["text", "mapping"]
)
def test_the_file_of_config_may_hold_the_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str
) -> None:
    seen = []
    monkeypatch.setattr(kedro_run, "callback", lambda **options: seen.append(options["params"]))
    (tmp_path / "run.yml").write_text(f"run:\n  {written}\n")
    done = CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "run.yml")])
    assert done.exit_code == 0, done.output
    assert seen == [{"run_id": "0123", "seed": 2}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["judge-cost", "--run", "a" * 300], "cannot be a run's id"),
        (["judge-cost", "--run", "../nope"], "cannot be a run's id"),
        (["check", "--pipelines", ","], "--pipelines: there is no name"),
        (["plan", "--env", "nope"], "--env nope: there is no such environment"),
        (["score", "pope", "--answers", "x", "--env", "nope"], "--env nope: there is no such environment"),
        (["check", "--load-versions", "a:b,a:c"], "a of run b is asked for too"),
        (["check", "--load-versions", "a:../b"], "this is not NAME:RUN"),
    ],
)
def test_mistakes_end_in_one_message(monkeypatch: pytest.MonkeyPatch, given: list[str], message: str) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli, given)
    assert (done.exit_code, done.output.count("Error: ")) == (1, 1)
    assert message in done.output


@pytest.mark.parametrize(
    ("error", "told"),
    [(MemoryError(), True), (PermissionError(13, "Permission denied", "x"), True), (KeyError("bug"), False)],
)
def test_a_command_tells_what_the_machine_refuses_and_shows_a_bug(error: Exception, told: bool) -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise error

    done = CliRunner().invoke(failing)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit if told else KeyError)
    assert ("Error: " in done.output) is told


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("- a", "is a list"),
        ("run: [", "line 1"),
        ("a: 1", "holds no options of run"),
        ("run: {nope: 1}", "`nope`"),
    ],
)
def test_a_file_of_options_of_no_use_is_named(tmp_path: Path, written: str, message: str) -> None:
    (tmp_path / "run.yml").write_text(written)
    done = CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "run.yml")])
    assert (done.exit_code, message in done.output) == (1, True), done.output


def test_params_that_cannot_be_read_end_in_one_message() -> None:
    @click.command()
    @params_option
    def show(params: dict) -> None:
        click.echo(json.dumps(params))

    assert CliRunner().invoke(show, ["--params", "a=1", "--params", "b=2"]).stdout == '{"a": 1, "b": 2}\n'
    assert CliRunner().invoke(show, []).stdout == "{}\n"
    done = CliRunner().invoke(show, ["--params", "chair"])
    assert (done.exit_code, "Error: --params chair: this is not NAME=VALUE" in done.stderr) == (1, True)
