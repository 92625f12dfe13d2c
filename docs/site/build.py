"""Builds the site of the documentation: ``python docs/site/build.py FOLDER``; ``make docs`` does.

The pages are those of the repository, laid out anew for Sphinx, and two that are made of the code itself:
every parameter, and every command. A warning, such as that of a link which leads nowhere, fails the build.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

import reference

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INDEX = "docs/README.md"
MOVED = {
    "README.md": "index.md",
    "README.zh-TW.md": "zh-TW/index.md",
    "CONTRIBUTING.md": "contributing.md",
    INDEX: "by_job.md",
}
"""Pages of the repository -> where they lie in the site; the others keep their place in ``docs``."""
LINK = re.compile(r"\]\(([^)#\s:]+)(?=[)#])")
SECTION = re.compile(r"^\| \*\*(.+?)\*\* \|")


def build(target: Path) -> int:
    """Builds the site into a folder.

    Returns:
        Sphinx's exit status: 0 if there was nothing to warn of.
    """
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        lay_out(source)
        options = ["--fail-on-warning", "--keep-going", "-q", "-d", f"{work}/doctrees"]
        return build_main([*options, str(source), str(target)])


def lay_out(source: Path) -> None:
    """Writes Sphinx's sources into a folder: its settings, the pages and their pictures."""
    shutil.copytree(HERE / "static", source / "static")
    shutil.copy(HERE / "conf.py", source)
    shutil.copytree(ROOT / "docs/images", source / "images")
    for page in repository_pages():
        write(
            source / place(page), LINK.sub(lambda link, page=page: f"]({moved(link[1], page)}", text_of(page))
        )
    write(source / "reference/parameters.md", reference.parameters())
    write(source / "reference/commands.md", reference.commands())
    with (source / place("README.md")).open("a", encoding="utf-8") as first:
        first.write(contents())


def repository_pages() -> list[str]:
    """Lists the pages of the repository that are in the site, by their paths in it."""
    docs = [page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))]
    return [*(page for page in MOVED if page != INDEX), *docs]


def place(page: str) -> str:
    """Says where a page or picture of the repository lies in the site."""
    return MOVED.get(page, page.removeprefix("docs/"))


def moved(link: str, page: str) -> str:
    """Writes a link on a page of the repository as it leads to the same page in the site."""
    target = os.path.normpath(os.path.join(os.path.dirname(page), link))
    return os.path.relpath(place(target), os.path.dirname(place(page)) or ".")


def contents() -> str:
    """Writes the site's contents: the sections and pages of the list by job, and the reference."""
    sections: dict[str, list[str]] = {}
    listed = {"README.md"}
    for line in text_of(INDEX).splitlines():
        if title := SECTION.match(line):
            pages = sections.setdefault(title[1], [])
        for link in LINK.findall(line):
            page = os.path.normpath(os.path.join("docs", link))
            if page not in listed:
                listed.add(page)
                pages.append(f"{short_title(page)} <{place(page)}>")
    sections["Reference"] = ["reference/parameters.md", "reference/commands.md"]
    return "".join(toctree(title, pages) for title, pages in sections.items())


def short_title(page: str) -> str:
    """The title of a page as the contents show it: without what follows a colon."""
    return text_of(page).splitlines()[0].removeprefix("# ").partition(":")[0]


def toctree(title: str, pages: list[str]) -> str:
    """Writes one section of the contents."""
    entries = "\n".join(pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def text_of(page: str) -> str:
    """Reads a page of the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def write(file: Path, text: str) -> None:
    """Writes a page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
