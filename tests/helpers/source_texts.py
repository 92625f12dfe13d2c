"""What the source says to people: its texts, and the parameters that they name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rlaifv_kedro.params import Parameters

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/rlaifv_kedro"
HOLE = "…"
"""Stands for what a message is filled with."""
PARAMETER = re.compile(rf"(?<![\w./-])((?:{'|'.join(Parameters.model_fields)})(?:\.\w+)+)(?![\w/(*{HOLE}-])")


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


def named_parameters() -> set[tuple[str, str]]:
    """(place, name) of every parameter that a text names."""
    return {(place, name) for place, text in TEXTS for name in PARAMETER.findall(text)}
