"""The project that a command works in."""

from pathlib import Path

from rlaifv_kedro.errors import UserError


def project_path() -> Path:
    """Finds the Kedro project around the working folder.

    Raises:
        UserError: There is none.
    """
    from kedro.utils import find_kedro_project

    found = find_kedro_project(Path.cwd())
    if found is None:
        raise UserError(
            f"{Path.cwd()} is not inside a Kedro project. Change to the project's folder (the one with "
            "pyproject.toml)."
        )
    return Path(found)


def runs_path() -> Path:
    """Finds the folder whose runs are looked at: the project's, or a packaged project's working folder.

    Raises:
        UserError: There is none.
    """
    from rlaifv_kedro.runs.manifest import RUNS

    return Path.cwd() if (Path.cwd() / RUNS).is_dir() else project_path()


def configure() -> None:
    """Tells Kedro which project this is: the one around the working folder, or else this package.

    A packaged project has no pyproject.toml; its ``conf`` and ``data`` lie in the working folder.
    """
    from kedro.framework import project
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    found = find_kedro_project(Path.cwd())
    if project.PACKAGE_NAME is not None:
        return
    if found is not None:
        bootstrap_project(Path(found))
    else:
        project.configure_project(__package__.partition(".")[0])
