"""The pages of the reference, made of the code: every parameter, and every command with its help."""

import inspect
import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import yaml
from pydantic import BaseModel

from rlaifv_kedro.commands import SECTIONS
from rlaifv_kedro.commands.run import Run, kedro_run
from rlaifv_kedro.params import RUN_NAMES, ModelsParams, Parameters
from rlaifv_kedro.params.effects import effect_of
from rlaifv_kedro.params.messages import models_in
from rlaifv_kedro.params.models import BACKENDS

PARAMETERS = """# All parameters

Everything that may stand in `conf/*/parameters.yml` or behind `--params` ([how values are
typed](../commands.md)). The defaults are the method's. Where a default comes from stands in brackets: the
paper, the release (its code), or ours. *Miniature* is what `conf/base` sets for so small a world; the
recipes set what their models need.

The last column says what another value changes: the *result*; only the *execution*, that is when, where
and how fast the same is computed; or the *division* of the work into parts. [Runs](../runs.md) says which
of them a run that goes on takes.
"""
HEADER = "| parameter | default | allowed | meaning | changes |\n| --- | --- | --- | --- | --- |\n"
COMMANDS = """# All commands

What `rlaifv COMMAND --help` prints. Inside the project `kedro COMMAND` is the same.
"""
MINIATURE = yaml.safe_load(
    (Path(__file__).parents[2] / "conf/base/parameters.yml").read_text(encoding="utf-8")
)
ROLES = "models.ROLE"
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "null": "null",
}


def parameters() -> str:
    """Writes the page of all parameters, a table a group."""
    return PARAMETERS + "".join(group(Parameters, ""))


def group(model: type[BaseModel], name: str) -> Iterator[str]:
    """The table of a group's own parameters, and those of the groups in it."""
    inner: list[tuple[type[BaseModel], str]] = []
    rows = []
    for own, field in model.model_fields.items():
        full = f"{name}.{own}".removeprefix(".")
        models = models_in(field.annotation)
        keyed = get_origin(field.annotation) is dict  # the keys are the user's own
        if model is ModelsParams:
            inner = [(backend, ROLES) for backend in BACKENDS.values()]
        else:
            inner += [(found, f"{full}.NAME" if keyed else full) for found in models]
        if not models or keyed or model is ModelsParams or type(None) in get_args(field.annotation):
            rows.append(row(model, own, full))
    yield f"\n## {name or 'The run'}{backend_in(model)}\n\n{sentence(model)}\n\n"
    yield from [HEADER, *rows] if rows else []
    for found, full in inner:
        yield from group(found, full)


def backend_in(model: type[BaseModel]) -> str:
    """Names the backend whose parameters these are, in a heading."""
    return next((f", backend: {name}" for name, params in BACKENDS.items() if params is model), "")


def row(model: type[BaseModel], own: str, full: str) -> str:
    """One parameter's row."""
    field, schema = model.model_fields[own], model.model_json_schema()["properties"][own]
    default = "required" if field.is_required() else written(field.default)
    *groups, _ = full.split(".")
    set_in_base = reduce(lambda values, name: values.get(name) or {}, groups, MINIATURE)
    value = set_in_base.get(own, field.default)
    if value != field.default and "${" not in str(value):
        default += f"; miniature: {written(value)}"
    said = (field.description or "").replace("*", "\\*")
    changes = "-" if full in RUN_NAMES else effect_of(full.replace(ROLES, "models.labeler")).value
    cells = (f"`{own}`", default, allowed(schema), said, changes)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def written(value: Any) -> str:
    """A value as JSON."""
    return f"`{json.dumps(plain(value), ensure_ascii=False)}`"


def plain(value: Any) -> Any:
    """A default as JSON holds it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def allowed(schema: dict[str, Any]) -> str:
    """Writes the values that a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(allowed, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = schema.get("items") or schema["prefixItems"][0]
        return f"list of: {allowed(inner)}"
    bounds = " and ".join(f"{sign} {schema[name]}" for name, sign in BOUNDS.items() if name in schema)
    pattern = f"that matches `{schema['pattern']}`" if "pattern" in schema else ""
    return " ".join(part for part in (KINDS.get(schema.get("type", ""), "mapping"), bounds, pattern) if part)


def sentence(model: type[BaseModel]) -> str:
    """The first sentence of a group's docstring."""
    return inspect.cleandoc(model.__doc__ or "").splitlines()[0]


def commands() -> str:
    """Writes the page of all commands: the help of each, as the terminal shows it."""
    lines = [COMMANDS]
    for title, section in SECTIONS.items():
        lines.append(f"\n## {title}\n")
        for command in section:
            lines += helps(kedro_run() if isinstance(command, Run) else command, f"rlaifv {command.name}")
    return "".join(lines)


def helps(command: click.Command, name: str) -> Iterator[str]:
    """The help of a command, then that of its own commands."""
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    yield f"\n### {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for own, inner in command.commands.items():
            yield from helps(inner, f"{name} {own}")
