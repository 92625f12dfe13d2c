"""How large the house is: files, lines and statements by package, circles, catalog entries, parameters.

    python perf/house.py                  # this checkout
    python perf/house.py --at 3c75e13     # any commit of it

Lines depend on the width at which the formatter breaks them, statements do not. A circle is a group of files
that import each other, also inside functions or for type checkers alone (tests/helpers/imports.py).
"""

import argparse
import ast
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/helpers"))

from imports import circles, imports  # noqa: E402  the tests' reader of imports

PACKAGE = "rlaifv_kedro"


def statements(path: Path) -> int:
    """Statements of a file, docstrings left out."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt))
    return sum(not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) for n in nodes)


def catalog(conf: Path) -> int:
    """Entries of the base catalog; those that only hold what others share don't count."""
    entries = [name for path in conf.glob("base/catalog*.yml") for name in yaml.safe_load(path.read_text())]
    return sum(not name.startswith("_") for name in entries)


def crowded(path: Path) -> int:
    """Functions with more than seven parameters, ``self`` and ``cls`` not counted."""
    functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))
    arguments = ([*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs] for f in functions)
    return sum(len([a for a in own if a.arg not in ("self", "cls")]) > 7 for own in arguments)


def parameters(source: Path) -> int:
    """Parameters with their defaults, those in groups one by one; asked of that checkout's own code."""
    code = (
        "from rlaifv_kedro.params import Parameters\n"
        "def leaves(d): return sum(leaves(v) if isinstance(v, dict) and v else 1 for v in d.values())\n"
        "print(leaves(Parameters().model_dump(mode='json')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def report(root: Path) -> None:
    """Prints the figures of a checkout as a Markdown table."""
    source = root / "src"
    files = sorted((source / PACKAGE).rglob("*.py"))
    rooms: Counter[str] = Counter()
    size: dict[str, list[int]] = {}
    for path in files:
        parts = path.relative_to(source / PACKAGE).parts
        room = parts[0] if len(parts) > 1 else "(top)"
        rooms[room] += 1
        lines, stated = size.setdefault(room, [0, 0])
        size[room] = [lines + len(path.read_text().splitlines()), stated + statements(path)]
    print("| room | files | lines | statements |\n| --- | --- | --- | --- |")
    for room in sorted(rooms):
        print(f"| {room} | {rooms[room]} | {size[room][0]:,} | {size[room][1]:,} |")
    lines, stated = (sum(column) for column in zip(*size.values()))
    print(f"| all | {len(files)} | {lines:,} | {stated:,} |")
    long = [path for path in files if len(path.read_text().splitlines()) > 300]
    print(f"functions of more than 7 parameters: {sum(crowded(path) for path in files)}, nodes among them")
    print(f"parameters: {parameters(source)}")
    conf = sum(len(path.read_text().splitlines()) for path in (root / "conf/base").glob("*.yml"))
    found = circles(imports(source / PACKAGE, PACKAGE))
    print(f"\ncircles: {len(found)}", *(f"  {' <-> '.join(group)}" for group in found), sep="\n")
    print(f"modules of more than 300 lines: {len(long)}")
    print(f"conf/base: {conf} lines, {catalog(root / 'conf')} catalog entries")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at", metavar="COMMIT", help="a commit, without it the working tree")
    args = parser.parse_args()
    if args.at is None:
        report(ROOT)
        return
    packed = subprocess.run(["git", "archive", args.at], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
        report(Path(folder))


if __name__ == "__main__":
    main()
