"""How the code reads: docstrings that begin with a sentence, short modules, few parameters, no layout by hand."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from imports import SOURCE

ROOMS = sorted({file.relative_to(SOURCE).parts[0] for file in SOURCE.rglob("*.py")})
MOST_LINES = 300
MOST_PARAMETERS = 7
# Longer modules, each with its reason.
LONG: dict[str, str] = {}
# Functions with more parameters, each with its reason.
MANY = {
    "models.minicpm_v.modeling.MiniCPMV.forward": "transformers' signature",
    "models.omnilmm.modeling.OmniLMMForConditionalGeneration.forward": "transformers' signature",
}
# Tables of words, laid out by hand.
WORD_TABLES = {"benchmarks/coco/words.py", "miniature/glyphs.py"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Named(NamedTuple):
    """A module, class or function, and where it stands."""

    name: str
    node: ast.Module | Definition


def files(room: str = "") -> list[Path]:
    """The files of a room, or all."""
    found = sorted(SOURCE.rglob("*.py"))
    return [file for file in found if file.relative_to(SOURCE).as_posix().startswith(room)]


def named(file: Path) -> Iterator[Named]:
    """The module and all classes, functions and methods in it; not those inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    module = file.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    yield Named(module, tree)
    for node in tree.body:
        if isinstance(node, Definition):
            yield Named(f"{module}.{node.name}", node)
            if isinstance(node, ast.ClassDef):
                yield from (
                    Named(f"{module}.{node.name}.{inner.name}", inner)
                    for inner in node.body
                    if isinstance(inner, Definition)
                )


def is_public(found: Named) -> bool:
    return not any(part.startswith("_") for part in found.name.split("."))


def is_node(function: ast.AST, file: Path) -> bool:
    """Whether it is a node of a pipeline, which takes one argument a catalog entry."""
    return file.parent.parent.name == "pipelines" and file.name == "nodes.py"


def fault_of_docstring(text: str | None) -> str | None:
    """What is wrong with a docstring's first line, or None."""
    if text is None:
        return "has no docstring"
    first = text.splitlines()[0]
    if first.startswith("Args"):
        return "begins with Args"
    if not re.search(r"[.?!]$", first):
        return f"begins with no sentence that ends on its line: {first!r}"
    return None


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller may give; ``self``, ``*args`` and ``**kwargs`` don't count."""
    own = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([a for a in own if a.arg not in ("self", "cls")])


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_begin_with_a_sentence(room: str) -> None:
    faults = [
        f"{found.name} {fault}"
        for file in files(room)
        for found in named(file)
        if is_public(found) and (fault := fault_of_docstring(ast.get_docstring(found.node)))
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "has no docstring"),
        ("Args:\n    x: ...", "begins with Args"),
        ("A sentence that goes on\non its second line.", "begins with no sentence"),
        ("No sentence", "begins with no sentence"),
    ],
)
def test_faults_of_docstrings_are_found(text: str | None, fault: str) -> None:
    assert fault_of_docstring(text).startswith(fault)
    assert fault_of_docstring("A sentence: with (all) of it.\n\nMore.") is None


def test_conditional_expressions_are_not_nested() -> None:
    nested = {
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in files()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.IfExp) and isinstance(node.orelse, ast.IfExp)
    }
    assert nested == set()


def test_modules_fit_a_sitting() -> None:
    lengths = {f"{file.relative_to(SOURCE)}": len(file.read_text().splitlines()) for file in files()}
    long = {name for name, length in lengths.items() if length > MOST_LINES}
    assert long == LONG.keys()


def test_functions_take_few_parameters() -> None:
    many = {
        f"{found.name} ({count})"
        for file in files()
        for found in named(file)
        if isinstance(found.node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not is_node(found.node, file)
        and (count := parameters(found.node)) > MOST_PARAMETERS
    }
    assert {name.partition(" ")[0] for name in many} == MANY.keys(), many


def test_the_formatter_lays_out_all_but_tables_of_words() -> None:
    by_hand = {
        f"{file.relative_to(SOURCE)}"
        for file in files()
        if re.search(r"#\s*fmt:\s*(skip|off)", file.read_text())
    }
    assert by_hand == WORD_TABLES


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone: of two files with one name it takes one."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
