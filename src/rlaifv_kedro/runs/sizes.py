"""How much the catalog's entries hold, for Kedro-Viz, which takes the folder of versions for the file."""

import json
from collections.abc import Iterable
from pathlib import Path

from kedro.io import DataCatalog

from rlaifv_kedro.datasets.previews import TablePreviews
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import files_of, write_atomically
from rlaifv_kedro.runs.kedro_private import dataset

STATS = ".viz/stats.json"
"""Where Kedro-Viz looks, inside the project."""


def write_sizes(project: Path, catalog: DataCatalog, names: Iterable[str]) -> None:
    """Writes rows, columns and bytes of these entries' newest versions; what is not there is left out."""
    found = {name: dataset(catalog, name) for name in sorted(names)}
    sizes = {name: sizes_of(entry) for name, entry in found.items() if isinstance(entry, RunVersionedDataset)}
    there = {name: size for name, size in sizes.items() if size}
    write_atomically(project / STATS, json.dumps(there, indent=1).encode())


def sizes_of(entry: RunVersionedDataset) -> dict[str, int]:
    """Bytes on the disk, and of a table its rows and columns; nothing where no whole version is there."""
    try:
        path = entry.load_path()
        rows, columns = entry.shape() if isinstance(entry, TablePreviews) else (None, None)
    except UserError:
        return {}  # whoever loads it says what is wrong
    files = [path] if path.is_file() else [path / name for name in files_of(path)]
    counted = {} if rows is None else {"rows": rows, "columns": columns}
    return {**counted, "file_size": sum(file.stat().st_size for file in files)}
