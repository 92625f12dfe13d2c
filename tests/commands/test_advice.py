"""Advice leads somewhere: what messages name (commands, options, pipelines, parameters, pages) is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rlaifv_kedro.commands import cli
from rlaifv_kedro.commands.run import kedro_run
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.params.command_line import types_at
from rlaifv_kedro.params.messages import RENAMED
from rlaifv_kedro.pipeline_registry import register_pipelines
from rlaifv_kedro.runs.configuration import environments

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/rlaifv_kedro"
HOLE = "…"
"""Stands for what a message is filled with."""
OF_KEDRO = {"registry", "catalog", "jupyter", "package"}
COMMAND = re.compile(r"\b(rlaifv|kedro) ([a-z][a-z-]+)((?: [^\s.;,()]+)*)")
PARAMETER = re.compile(rf"(?<![\w./-])((?:{'|'.join(Parameters.model_fields)})(?:\.\w+)+)(?![\w/(*{HOLE}-])")
FILES = {"training.log"}


def texts() -> Iterator[tuple[str, str]]:
    """Every text in the source that isn't documentation, with its place; f-strings with holes."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
        documented = [node.body for node in ast.walk(tree) if isinstance(node, holders)]
        docs = {id(each.value) for body in documented for each in body if isinstance(each, ast.Expr)}
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            place = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in docs | inside
            ):
                yield place, node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
                yield place, "".join(map(str, parts))


TEXTS = list(texts())


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
    named = {(place, name) for place, text in TEXTS for name in PARAMETER.findall(text)}
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
