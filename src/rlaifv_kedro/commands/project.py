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


def run_named(run: str | None) -> tuple[Path, str | None]:
    """Finds the project of a run that is named by its id, or, from anywhere, by its folder.

    Returns:
        The project's folder, and the run's id as far as one is named.

    Raises:
        UserError: There is no project, or the folder is no run's.
    """
    from rlaifv_kedro.runs.manifest import RUNS

    if run is None or "/" not in run:
        return runs_path(), run
    folder = Path(run).resolve()
    project = folder.parent.parent.parent
    if not folder.is_dir() or folder.parent != project / RUNS:
        raise UserError(f"{run} is no run's folder. Such a folder is {RUNS}/RUN in a project.")
    return project, folder.name


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
