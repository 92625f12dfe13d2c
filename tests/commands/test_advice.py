"""Advice leads somewhere: what messages name (commands, options, pipelines, parameters, pages) is there."""

import re
from collections.abc import Iterator

import click
import pytest

from rlaifv_kedro.commands import cli
from rlaifv_kedro.commands.run import kedro_run
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.params.command_line import types_at
from rlaifv_kedro.params.messages import RENAMED
from rlaifv_kedro.pipeline_registry import register_pipelines
from rlaifv_kedro.runs.configuration import environments
from source_texts import ROOT, TEXTS, named_parameters

OF_KEDRO = {"registry", "catalog", "jupyter", "package"}
COMMAND = re.compile(r"\b(rlaifv|kedro) ([a-z][a-z-]+)((?: [^\s.;,()]+)*)")
FILES = {"training.log"}


def command(name: str) -> click.Command | None:
    return kedro_run() if name == "run" else cli.commands.get(name)


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """(place, name, words behind it) of every command that a message names."""
    for place, text in TEXTS:
        for program, name, rest in COMMAND.findall(text):
            if not (program == "kedro" and name in OF_KEDRO):
                yield place, name, rest.replace("`", " ").split()


def test_commands_in_messages_exist_with_these_options() -> None:
    found, wrong = 0, []
    for place, name, words in commands():
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        known = command(name)
        if isinstance(known, click.Group):  # `rlaifv runs resume`
            known = known.commands.get(words[0] if words else "", known)
        found += known is not None
        options = {option for parameter in known.params for option in parameter.opts} if known else set()
        if given and not set(given) <= options:
            wrong.append((place, name, given))
    assert wrong == []
    assert found > 20  # else the pattern finds nothing any more


def test_pipelines_and_environments_in_messages_exist() -> None:
    pipelines, known = register_pipelines(), environments(ROOT / "conf")
    wrong = []
    for place, text in TEXTS:
        for option, value in re.findall(r"--(pipelines|env) ([\w,]+)", text):
            names = pipelines if option == "pipelines" else known
            wrong += [(place, name) for name in value.split(",") if name not in (*names, "NAME", "ENV")]
    assert wrong == []


def test_parameters_in_messages_exist() -> None:
    named = named_parameters()
    wrong = [
        (place, name)
        for place, name in sorted(named)
        if not (types_at(name.split("."), Parameters) or name.endswith("_") or name in FILES | RENAMED.keys())
    ]
    assert wrong == []
    assert len(named) > 50


@pytest.mark.parametrize("pattern", [r"docs/\w+\.md", r"conf/[\w/]+\.(?:yml|json)"])
def test_files_in_messages_exist(pattern: str) -> None:
    wrong = [
        (place, name)
        for place, text in TEXTS
        for name in re.findall(pattern, text)
        if not (ROOT / name).exists()
    ]
    assert wrong == []
