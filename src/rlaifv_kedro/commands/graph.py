"""``rlaifv graph``: the pipelines as a picture, by Kedro-Viz."""

import logging
import os
import re
import shutil
import socket
import threading
import time
import warnings
import webbrowser
from pathlib import Path
from types import ModuleType

import click

from rlaifv_kedro.commands.options import env_option, examples, path_option
from rlaifv_kedro.commands.terminal import Command
from rlaifv_kedro.errors import UserError

HOST, PORT = "127.0.0.1", 4141
BOXES = "pid=__default__&types=nodes"
"""What the picture opens with: Kedro-Viz would draw more than a hundred datasets around seven boxes."""

_OPENING = f"""<script>
      if (!location.search) history.replaceState(null, "", "?{BOXES}");
      localStorage.getItem("KedroViz") ?? localStorage.setItem("KedroViz", '{{"showFeatureHints": false}}');
    </script>
    """


@click.command("graph", cls=Command, epilog=examples("rlaifv graph", "rlaifv graph --build site/viz"))
@env_option
@path_option("--build", "Write it as a folder of static files, with previews, and open nothing.", "FOLDER")
def command(env: str | None, build: Path | None) -> None:
    """Shows the pipelines as chained boxes, which open.

    `kedro viz run` shows the same, but opens with all data at once.
    """
    from rlaifv_kedro.commands.project import configure, project_path

    project = project_path()
    configure()
    if build is not None:
        _build(project, env, build)
        click.echo(f"{build} is written. To look at it: python -m http.server --directory {build}")
        return
    viz = _viz()
    if _answers():
        raise UserError(f"Port {PORT} is in use: another graph may be open. End it, then try again.")
    address = f"http://{HOST}:{PORT}/?{BOXES}"
    click.echo(f"The graph opens at {address}; Ctrl-C ends it.")
    threading.Thread(target=_open, args=(address,), daemon=True).start()
    viz.run_server(HOST, PORT, project_path=str(project), env=env, include_hooks=True, **_package())


def _build(project: Path, env: str | None, folder: Path) -> None:
    """Writes what Kedro-Viz's server would say, and its page, into the folder."""
    viz = _viz()
    import fsspec
    from kedro_viz.api.rest.responses.save_responses import save_api_responses_to_fs

    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / "api/main").is_file():
        raise UserError(f"{folder} is something else. Choose a new folder, or one that holds a graph.")
    shutil.rmtree(folder, ignore_errors=True)
    target = folder.absolute()
    os.chdir(project)
    logging.getLogger("kedro_viz").setLevel(logging.ERROR)  # it warns of every table that no run has made
    viz.load_and_populate_data(project, env, include_hooks=True, **_package())
    save_api_responses_to_fs(str(target), fsspec.filesystem("file"), is_all_previews_enabled=True)
    ours = shutil.ignore_patterns("telemetry.html", "autoreload.html")
    shutil.copytree(Path(viz.__file__).with_name("html"), target, ignore=ours, dirs_exist_ok=True)
    page = re.sub(r"<link[^>]*fonts\.g[^>]*>", "", (target / "index.html").read_text())  # of another server
    (target / "index.html").write_text(page.replace("<script", _OPENING + "<script", 1))


def _package() -> dict[str, str]:
    """The package whose pipelines are drawn, as Kedro-Viz wants to be told."""
    from kedro.framework import project

    return {"package_name": project.PACKAGE_NAME}


def _viz() -> ModuleType:
    """Kedro-Viz's server.

    Raises:
        UserError: It isn't installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FastAPI's, about Kedro-Viz
            from kedro_viz import server
            from kedro_viz.api import apps  # noqa: F401
    except ImportError as error:
        raise UserError("The graph needs Kedro-Viz: pip install 'rlaifv_kedro[viz]'.") from error
    return server


def _open(address: str) -> None:
    """Opens the address in the browser once the server answers."""
    while not _answers():
        time.sleep(0.2)
    webbrowser.open(address)


def _answers() -> bool:
    """Whether something answers where the graph's server does."""
    with socket.socket() as asking:
        return asking.connect_ex((HOST, PORT)) == 0
