"""What the project's files import of each other, read from their source."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import rlaifv_kedro

PACKAGE = "rlaifv_kedro"
SOURCE = Path(rlaifv_kedro.__file__).parent


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Dotted name below the package -> file, ``""`` for the package itself."""
    found = {}
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imports(source: Path = SOURCE, package: str = PACKAGE) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports: at its top, inside functions, for types only.

    A name that is taken from a package counts as an import of the module that the name is, or else of the
    package's ``__init__``.
    """
    known = modules(source)
    return {
        name: set(_imported(ast.parse(file.read_text(encoding="utf-8")), known, package)) - {name}
        for name, file in known.items()
    }


def _imported(tree: ast.AST, known: Mapping[str, Path], package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            wanted = [
                whole if _below(whole := f"{node.module}.{alias.name}", package) in known else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (below for name in wanted if (below := _below(name, package)) in known)


def _below(name: str, package: str) -> str | None:
    """The dotted name below the package; None outside."""
    if name == package:
        return ""
    return name.removeprefix(f"{package}.") if name.startswith(f"{package}.") else None


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other round in a circle (strongly connected, by Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            start = stack.index(name)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found
