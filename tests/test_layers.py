"""The layers of the house: which room may know which, no circles, and a light start."""

import subprocess
import sys
from pathlib import Path

import pytest

from imports import circles, imports, modules

# Small and low: they may know each other, and every room may know them.
BOTTOM = {
    "doors",
    "errors",
    "files",
    "formats",
    "found_out",
    "images",
    "leftovers",
    "machine",
    "models.cards",
    "models.files_of_checkpoint",
    "models.folder",
    "models.hub",
    "params",
    "pixels",
    "placeholders",
    "progress",
    "prompts",
    "processes",
    "redaction",
    "run_folder",
    "run_log",
    "schemas",
    "seeds",
    "software",
    "tags",
    "tracking",
    "transformers_private",
}
# What else each room may know. A room is a package or a file below rlaifv_kedro; "" is the package itself.
KNOWS = {
    "branching": set(),
    "datasets": set(),
    "engine": {"datasets"},
    "models": {"branching"},
    "preference": {"branching", "datasets", "models"},
    "claims": {"models"},
    "training": {"branching", "datasets", "models", "preference"},
    "benchmarks": {"claims", "datasets", "engine", "models", "preference"},
    "miniature": {"benchmarks", "claims"},
    "runs": {"datasets"},
    "reporting": {"benchmarks", "datasets", "preference", "runs"},
    "pipelines": {
        "benchmarks",
        "claims",
        "datasets",
        "engine",
        "miniature",
        "models",
        "preference",
        "reporting",
        "training",
    },
    "pipeline_registry": {"pipelines"},
    "preflight": {
        "benchmarks",
        "branching",
        "claims",
        "datasets",
        "engine",
        "models",
        "preference",
        "runs",
        "training",
    },
    "viewer": {"benchmarks", "datasets", "miniature", "preference", "reporting", "runs"},
    "commands": {"benchmarks", "datasets", "models", "preflight", "reporting", "runs", "viewer"},
    "resolvers": set(),
    "hooks": {"datasets", "engine", "runs"},
    "mlflow_hooks": {"runs"},
    "project_hooks": {"datasets", "runs"},
    "settings": {"hooks", "mlflow_hooks", "preflight", "project_hooks", "reporting", "resolvers", "runs"},
    "cli": {"commands"},
    "__main__": {"commands"},
    "": {"models"},
}
HEAVY = ("torch", "transformers", "spacy", "ray", "deepspeed", "datasets", "matplotlib")


def room(module: str) -> str:
    """The room of a module: one of the bottom by its whole name, else the first part of the name."""
    return module if module in BOTTOM else module.partition(".")[0]


def test_every_room_has_its_place() -> None:
    rooms = {room(module) for module in modules()}
    assert rooms - BOTTOM == KNOWS.keys() & rooms
    assert rooms >= KNOWS.keys(), "a room that is gone: delete its line"


def test_arrows_go_one_way() -> None:
    wrong = {
        (module, other)
        for module, others in imports().items()
        for other in others
        if room(other) not in {room(module), *BOTTOM, *(KNOWS.get(room(module), set()))}
    }
    assert wrong == set(), "arrows that design.md has not"


def test_rooms_make_no_circle() -> None:
    assert circles({"": set(), **KNOWS, **dict.fromkeys(BOTTOM, set())}) == []


def test_files_make_no_circle() -> None:
    """Imports inside functions and for types alone count too."""
    assert circles(imports()) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"e", "a"}}
    assert circles(graph) == [["b", "c"], ["e", "f"]]


def test_lazy_and_typed_imports_are_read(tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    for name, text in {
        "__init__.py": "",
        "low/__init__.py": "from house.low.one import thing",
        "low/one.py": "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.high",
        "high.py": "def f():\n    from house.low import one, thing\n    from housekeeping import low",
    }.items():
        (tmp_path / name).write_text(text)
    assert imports(tmp_path, "house") == {
        "": set(),
        "high": {"low", "low.one"},
        "low": {"low.one"},
        "low.one": {"high"},
    }


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """What a process has loaded that knows the project's settings, pipelines and commands, and runs none."""
    names = [
        name
        for name in modules()
        if room(name) in ("settings", "pipeline_registry", "commands", "hooks", "project_hooks")
    ]
    code = f"import sys\nfor name in {names!r}: __import__(f'rlaifv_kedro.{{name}}')\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", HEAVY)
def test_it_starts_light(package: str, loaded: set[str]) -> None:
    assert "rlaifv_kedro.pipeline_registry" in loaded
    assert package not in loaded
