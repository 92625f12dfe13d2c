"""Every private name of Kedro that this project relies on, in one place.

Kedro may rename them in any release; tests/runs/test_kedro_private.py holds each one against the installed
Kedro, and pyproject.toml admits only releases with which that test has passed.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.config import OmegaConfigLoader
from kedro.io import AbstractDataset, CachedDataset, DataCatalog
from kedro.io.core import AbstractVersionedDataset, Version
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rlaifv_kedro.doors import MOST_OF_SETTINGS, open_regular

# At run time these would set up Kedro's log, which writes to standard output outside of a project.
if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.framework.session import KedroServiceSession
    from kedro.runner import AbstractRunner


def dataset(catalog: DataCatalog, name: str) -> AbstractDataset:
    """The entry's dataset, made from its pattern where it has one; what a cache wraps."""
    found = catalog.get(name, fallback_to_runtime_pattern=True)
    return found._dataset if isinstance(found, CachedDataset) else found


def is_versioned(found: AbstractDataset) -> bool:
    """Whether the entry says ``versioned: true``."""
    return isinstance(found, AbstractVersionedDataset) and found._version is not None


def overwrites(found: AbstractDataset) -> bool:
    """Whether the dataset could have versions, but the entry has none: runs would overwrite each other."""
    return isinstance(found, AbstractVersionedDataset) and found._version is None


def saved_version(found: AbstractDataset) -> str | None:
    """The version that the dataset saves, or None."""
    version = getattr(found, "_version", None)
    return version.save if version else None


def set_version(found: AbstractDataset, load: str | None, save: str) -> None:
    """Pins what the dataset loads and saves; one without versions stays as it is."""
    if is_versioned(found):
        found._version = Version(load, save)
        found._clear_version_cache()


def filepath(found: AbstractDataset) -> Path | None:
    """The entry's path, that of all its versions; None for what is not a local file."""
    path = getattr(found, "_filepath", None)
    local = getattr(found, "_protocol", "file") == "file"
    return None if path is None or not local else Path(path)


def path_of(found: AbstractDataset, version: str | None) -> Path | None:
    """Where this version is, or None for what is not a local file."""
    path = filepath(found)
    if path is None or not version or not isinstance(found, AbstractVersionedDataset):
        return path
    return Path(found._get_versioned_path(version))


def can_tell_existence(found: AbstractDataset) -> bool:
    """Whether the dataset can say if it is there; one of an API, say, cannot."""
    return type(found)._exists is not AbstractDataset._exists


def nodes_to_run(pipeline: Pipeline, catalog: DataCatalog) -> set[Node]:
    """The nodes that a runner which makes only missing outputs will run."""
    from kedro.runner.runner import _build_node_children_map, _determine_nodes_to_run

    nodes = list(reversed(pipeline.nodes))
    return _determine_nodes_to_run(
        nodes, catalog, _build_node_children_map(pipeline), logging.getLogger("kedro")
    )


def without_resume_hint(runner: "AbstractRunner") -> "AbstractRunner":
    """The runner, which says nothing of its own about resuming: the run id resumes better."""
    runner._suggest_resume_scenario = lambda *_: None
    return runner


def project_path(session: "KedroServiceSession") -> Path:
    """The folder of the session's project."""
    return session._project_path


def config_files(loader: OmegaConfigLoader, key: str) -> dict[str, bytes]:
    """The content of each file of one kind that the loader reads, by path; those of the environment last."""
    found = {}
    for env in dict.fromkeys((loader.base_env, loader.env or loader.default_run_env)):
        folder = loader._get_conf_env_path(env)
        paths = {
            path for pattern in loader.config_patterns[key] for path in loader._fs.glob(f"{folder}/{pattern}")
        }
        for path in sorted(paths):
            if loader._is_valid_config_path(Path(path)) and not loader._is_hidden(path):
                if Path(path).exists():  # it is none of an archive's
                    open_regular(path, MOST_OF_SETTINGS).close()
                found[path] = loader._fs.cat_file(path)
    return found


def runtime_parameters(context: "KedroContext") -> dict[str, Any]:
    """What was given with ``--params``."""
    return context._runtime_params or {}
