"""How much the catalog's entries hold, for Kedro-Viz, which takes the folder of versions for the file."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kedro.io import DataCatalog
from kedro.io.core import DatasetError

from rlaifv_kedro.datasets.previews import BaseTableDataset
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import files_of, write_atomically
from rlaifv_kedro.runs.kedro_private import dataset

STATS = ".viz/stats.json"
"""Where Kedro-Viz looks, inside the project."""


def write_sizes(project: Path, catalog: DataCatalog, names: Iterable[str]) -> None:
    """Writes rows, columns and bytes of these entries' newest versions; what is not there is left out.

    Raises:
        UserError: The file can't be written.
    """
    sizes = {}
    for name in sorted(names):
        # One that can't be made or read is no matter of a run that doesn't read it.
        with suppress(DatasetError, UserError, OSError):
            entry = dataset(catalog, name)
            if isinstance(entry, RunVersionedDataset):
                sizes[name] = sizes_of(entry)
    write_atomically(project / STATS, json.dumps(sizes, indent=1).encode())


def sizes_of(entry: RunVersionedDataset) -> dict[str, int]:
    """Bytes on the disk, and of a table its rows and columns.

    Raises:
        UserError: No whole version is there.
    """
    path = entry.load_path()
    files = [path] if path.is_file() else [path / name for name in files_of(path)]
    size = {"file_size": sum(file.stat().st_size for file in files)}
    if not isinstance(entry, BaseTableDataset):
        return size
    rows, columns = entry.shape()
    return {"rows": rows, "columns": columns, **size}
