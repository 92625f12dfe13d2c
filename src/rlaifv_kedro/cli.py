"""``kedro run`` of this project: as Kedro's, but a value of ``--params`` may be a list or a mapping, such
as ``benchmarks=[chair,pope]``.
"""

import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import _split_params
from omegaconf import OmegaConf

_OPENING, _CLOSING, _QUOTES, _BEFORE_VALUES = "[{(", "]})", "'\"", "=[{(,:"


def split_items(text: str) -> list[str]:
    """The items between commas; commas within brackets or quotes separate nothing."""
    items, start, depth, quote, before = [], 0, 0, "", ""
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and before in _BEFORE_VALUES:  # not the one of "it's"
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            items.append(text[start:i])
            start = i + 1
        before = before if character.isspace() else character
    return [item for item in (item.strip() for item in [*items, text[start:]]) if item]


def split_params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Callback of ``--params``: nested parameters from ``a.b=1,c=[2,3]``, values read as YAML.

    Raises:
        click.UsageError: An item has no ``=`` or no name.
    """
    if not isinstance(value, str):
        return value
    merged = OmegaConf.create()
    for item in split_items(value):
        if "," in item and "=" in item and item.partition("=")[0].strip():
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([item]))
        else:  # Kedro's own, with its messages
            merged = OmegaConf.merge(merged, OmegaConf.create(_split_params(context, option, item)))
    return OmegaConf.to_container(merged)


def _run_command() -> click.Command:
    command = copy.copy(kedro_run)
    command.params = [copy.copy(parameter) for parameter in kedro_run.params]
    next(parameter for parameter in command.params if parameter.name == "params").callback = split_params
    return command


@click.group(name="rlaifv_kedro")
def cli() -> None:
    """Commands of this project."""


cli.add_command(_run_command())
