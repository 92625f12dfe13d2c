"""The site of the documentation: it is built without a warning, needs no network, and has all of the reference."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlaifv_kedro.commands import cli
from rlaifv_kedro.params.effects import all_effects

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs/site/build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_comes_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loaded = re.compile(r'(?:<(?:script|img|iframe)[^>]* src|<link[^>]* href)="(?:https?:)?//[^"]*"')
    assert len(pages) > 20
    assert {found for page in pages for found in loaded.findall(page.read_text())} == set()


def test_every_parameter_is_in_the_reference(site: Path) -> None:
    text = (site / "reference/parameters.html").read_text()
    names = {name.rpartition(".")[2] for name, _ in all_effects()}
    assert {name for name in names if f">{name}</span>" not in text} == set()
    assert "of the answers can’t be used" in text  # the description of feedback.max_reject_share
    assert re.search(r">4000</span>.{,40}; miniature: .{,80}>800</span>", text)  # data_generation.prompts
    assert "number &gt; 0 and &lt;= 5" in text  # the range of data_generation.temperature


def test_every_command_is_in_the_reference(site: Path) -> None:
    text = (site / "reference/commands.html").read_text()
    assert {name for name in cli.commands if f"Usage: rlaifv {name}" not in text} == set()
    assert "Usage: rlaifv runs resume" in text


def test_words_are_found_in_both_languages(site: Path) -> None:
    index = (site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")")
    terms = json.loads(index)["terms"]
    assert {"hallucin", "幻覺"} <= terms.keys()  # English words are found by their stems


def test_a_terminal_is_drawn_as_it_was_seen(tmp_path: Path) -> None:
    """A line that is written over shows its last text; colours and the end of the command are there."""
    picture = tmp_path / "a.svg"
    shown = r"printf '10%%\r100%% \033[32mdone\033[0m\n'; sleep 0.2; echo '<end> & after'"
    script = [sys.executable, str(ROOT / "docs/site/terminal.py"), str(picture)]
    subprocess.run([*script, "sh", "-c", shown], check=True)
    svg = ElementTree.fromstring(picture.read_text())
    last = svg.findall("{*}g")[-1]
    texts = ["".join(line.itertext()) for line in last]
    assert texts[0].startswith("$ sh -c") and texts[-2:] == ["100% done", "<end> & after"]
    assert [span.get("fill") for span in last.findall(".//{*}tspan")] == ["#7ee787"]
    failed = subprocess.run([*script, "false"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (1, "false ended with 1\n")
