"""Writes a run's viewer: pages, data and thumbnails, in a folder that needs no server and no network."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import replacing_folder, shown, writing
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.viewer.answers import write_answers
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.compared import compared
from rlaifv_kedro.viewer.data import write_data
from rlaifv_kedro.viewer.items import write_prompts
from rlaifv_kedro.viewer.labeler import labeler
from rlaifv_kedro.viewer.overview import overview
from rlaifv_kedro.viewer.rejects import write_rejects
from rlaifv_kedro.viewer.thumbnails import Thumbnails

VIEWERS = Path("data/08_reporting/viewer")
"""Where viewers lie, versioned as artifacts are: ``viewer/RUN/viewer``, which `rlaifv rm` finds."""
PAGE = "index.html"
_MARK = "viewer.css"  # by which a viewer is known: other sites have an index.html, too
_STATIC = Path(__file__).with_name("static")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        page: To be opened.
        prompts, answers: How many prompts, and items of benchmarks and the test split, it shows.
        unreadable: Pictures that can't be shown.
    """

    page: Path
    prompts: int
    answers: int
    unreadable: int


def write_viewer(
    project: Path, run: Manifest, folder: Path, against: Manifest | None = None, people: Path | None = None
) -> Written:
    """Writes the viewer of a run, in place of what it wrote there before; thumbnails stay.

    Args:
        against: Another run, which it is compared with.
        people: A table of people's labels of claims, see :func:`rlaifv_kedro.viewer.labeler.labeler`.

    Raises:
        UserError: The folder holds something else or can't be written, or an artifact is damaged.
    """
    _refuse_others_folder(folder)
    with writing(folder):  # first, so that what is left of a writing that fails is known as a viewer
        shutil.copytree(_STATIC, folder, dirs_exist_ok=True)
    with (
        replacing_folder(folder / "data") as data,
        closing(Thumbnails(folder / "thumbnails")) as pictures,
    ):
        data.mkdir()
        artifacts = Artifacts(project, run)
        counts = artifacts.by_iteration(lambda own, k: write_prompts(own, k, data, pictures))
        answers = write_answers(artifacts, data, pictures)
        about_labeler = labeler(artifacts, people)
        write_data(data, "wrong", about_labeler.pop("wrong", {}) if about_labeler else {})
        if against is not None:
            write_data(data, "compare", compared(project, against, run))
        shown = {"answers": answers, "labeler": about_labeler, "compared": against is not None}
        shown["rejects"] = write_rejects(artifacts, data)
        write_data(data, "run", {**overview(artifacts, counts), **shown})
    return Written(
        page=folder / PAGE,
        prompts=sum(found["prompts"] for found in counts.values()),
        answers=sum(found["items"] for found in answers),
        unreadable=pictures.unreadable,
    )


def _refuse_others_folder(folder: Path) -> None:
    if folder.exists() and not (
        folder.is_dir() and ((folder / _MARK).is_file() or not any(folder.iterdir()))
    ):
        raise UserError(f"{shown(folder)} is there and no viewer. Choose another folder with --out.")
