"""The documentation: its links lead somewhere, and the commands that it shows exist."""

import re
from pathlib import Path

import click
import pytest

from rlaifv_kedro.commands import cli

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"\brlaifv ([a-z][a-z-]+)([^`#\n]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_are_shown_have_these_options(page: Path) -> None:
    """Those of `run` are Kedro's own."""
    wrong = []
    for name, rest in COMMAND.findall(page.read_text()):
        command = cli.commands[name]
        if isinstance(command, click.Group):  # `rlaifv runs resume`
            command = command.commands.get(rest.split(maxsplit=1)[0] if rest.split() else "", command)
        known = [option for parameter in command.params for option in parameter.opts]
        given = re.findall(r"(?<=[\s\[|])--[a-z-]+", rest)
        wrong += [f"{name} {option}" for option in given if name != "run" and option not in known]
    assert wrong == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert [page for page in sorted(pages) if f"({page})" not in index] == []


@pytest.mark.parametrize(("page", "part"), [("edges.md", ""), ("security.md", "## What was tried")])
def test_each_edge_is_held_by_a_test_that_exists(page: str, part: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    rows = [line for line in text[text.index(part) :].splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| what comes in", "| what was tried", "| ---"))]
    wrong = []
    for row in rows:
        tests = re.findall(r"`tests/([\w/]+\.py)::(\w+)`", row.rsplit("|", 2)[1])
        found = [
            (ROOT / "tests" / file).is_file() and f"def {name}(" in (ROOT / "tests" / file).read_text()
            for file, name in tests
        ]
        if not found or not all(found):
            wrong.append(row)
    assert wrong == []
