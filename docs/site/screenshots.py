"""Takes the pictures of the viewer's pages in docs/viewer.md: ``python docs/site/screenshots.py [VIEWER]``.

VIEWER is a folder that ``rlaifv view`` has written; without one, the newest run's is written and taken. A
Chromium has to be there: ``chromium``, ``google-chrome``, or what $CHROMIUM names.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parents[1] / "images" / "viewer"
COLOURS = 200
"""Of a picture: enough for text and charts, and half the bytes."""


class Shot(NamedTuple):
    """One picture: of an address within the viewer, once something is there, in a window of some size."""

    address: str
    shows: str
    width: int = 1280
    height: int = 900
    scheme: str = "light"


SHOTS = {
    "run": Shot("#run", ".chart svg", height=1000),
    "prompts": Shot("#prompts?s=unsure", ".candidate"),
    "dark": Shot("#prompts?v=rejected&g=2&i=2", ".candidate", scheme="dark"),
    "answers": Shot("#answers?c=down", ".side"),
    "labeler": Shot("#labeler", ".chart svg", height=1000),
    "compare": Shot("#compare", "h2", height=1000),
    "rejects": Shot("#rejects", "table.rows td", height=600),
    "phone": Shot("#prompts?s=unsure", ".candidate", width=390, height=844),
}


def main() -> None:
    """Takes all pictures of pages that the viewer has."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("There is no Chromium. Install one, or name it by $CHROMIUM.")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as started:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else written(Path(scratch) / "viewer")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, shot in SHOTS.items():
            size = {"width": shot.width, "height": shot.height}
            page = browser.new_page(viewport=size, color_scheme=shot.scheme)
            if taken := picture(page, folder, shot, name):
                save(taken, PICTURES / f"{name}.png")
            page.close()
        browser.close()


def written(folder: Path) -> Path:
    """The newest run's viewer, compared with the run before it, if there is one."""
    command = [sys.executable, "-m", "rlaifv_kedro"]
    listed = subprocess.run([*command, "runs", "--json"], check=True, capture_output=True, text=True)
    before = [run["run_id"] for run in json.loads(listed.stdout)[-2:-1]]
    against = [option for run_id in before for option in ("--against", run_id)]
    subprocess.run([*command, "view", "--out", folder, *against], check=True)
    return folder


def picture(page: Page, folder: Path, shot: Shot, name: str) -> bytes | None:
    """What the window shows; None if the viewer has no such page."""
    page.goto(f"{(folder / 'index.html').resolve().as_uri()}{shot.address}")
    page.wait_for_selector("#pages a")
    if not page.locator(f"#pages a[href='{shot.address.partition('?')[0]}']").count():
        print(f"{name}: this viewer has no such page")
        return None
    if shot.width < 700:  # there the list comes first, and an item when it is chosen
        page.locator(".list a").first.click()
    if name == "dark":
        page.wait_for_selector(shot.shows)
        page.locator(".candidates").evaluate("(list) => list.previousSibling.scrollIntoView()")
    page.wait_for_selector(shot.shows)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    return page.screenshot()


def save(content: bytes, path: Path) -> None:
    """Writes a picture with few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    few = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
