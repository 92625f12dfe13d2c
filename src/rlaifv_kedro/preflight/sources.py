"""The models of a run with their sizes, and the rows of its tables.

Each is told by what is there, else by a known name, else assumed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kedro.io import DataCatalog
from kedro.io.core import DatasetError

from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import billions
from rlaifv_kedro.params import OpenAIParams
from rlaifv_kedro.preflight.assumptions import Assumptions
from rlaifv_kedro.preflight.counts import Tables
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.shapes import LLAMA, LLAVA, known_size
from rlaifv_kedro.preflight.sizes import ModelSize
from rlaifv_kedro.preflight.table_rules import POOL, pool_is_drawn
from rlaifv_kedro.runs.kedro_private import dataset, filepath
from rlaifv_kedro.tags import Role

if TYPE_CHECKING:
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class Model:
    """A model of the run.

    Attributes:
        source: Its folder or name, or the server's address.
        told_by: Where its size is from.
    """

    role: str
    source: str
    size: ModelSize | None
    told_by: str

    def __str__(self) -> str:
        """One line about it."""
        size = f"{billions(self.size.parameters)} parameters ({self.told_by})" if self.size else self.told_by
        return f"{self.role.replace('_', ' ')}: {self.source}, {size}"


def models_of(setup: RunSetup) -> list[Model]:
    """The models that the run's nodes call, with their sizes.

    A size is told by the model's files, else by its name, else assumed.
    """
    entries = {"policy": Role.POLICY, "labeler": Role.LABELER}
    models = []
    for role, params in setup.asked().items():
        if isinstance(params, OpenAIParams):
            models.append(Model(role, " and ".join(params.urls), None, "asked of a server: no GPU of ours"))
            continue
        checkpoints = setup.checkpoint_entries(entries[role]) if role in entries else []
        source = params.path or (_source(setup.catalog, checkpoints[0]) if checkpoints else "")
        named = shown(source) if Path(source).is_absolute() else source
        models.append(Model(role, named, *_size(setup, role, source)))
    return models


def _source(catalog: DataCatalog, entry: str) -> str:
    found = dataset(catalog, entry)
    try:
        return str(found.load_path() if found.exists() else filepath(found))
    except DatasetError:
        return str(filepath(found))


def _size(setup: RunSetup, role: str, source: str) -> tuple[ModelSize, str]:
    """(size, where it is from). Weights in ``.bin`` files don't tell their parts, which a known name does."""
    known = known_size(source)
    looks = (look for model, look in setup.inspected if (model.role, model.source) == (role, source))
    measured = next((look.size for look in looks), None)
    if measured is not None and (measured.shapes or known is None):
        return measured, "its files"
    if known is not None:
        return known, "its name; not here yet" if measured is None else "its name"
    return (
        (LLAVA, "assumed to be like LLaVA-1.5-7B")
        if role in ("policy", "labeler")
        else (LLAMA, "assumed to be like Llama-3-8B")
    )


def tables_of(setup: RunSetup, assumed: Assumptions) -> Tables:
    """Rows of the run's tables.

    They are counted where the tables are there; the miniature's are those that it will draw; others are
    assumed.
    """
    if pool_is_drawn(setup):
        drawn = setup.parameters.miniature
        probes = round(drawn.test_scenes * assumed.probes_per_prompt)
        return Tables(drawn.selection_scenes, drawn.test_scenes, probes, assumed.image_bytes)
    names = (POOL, "selection_prompts", "test_prompts", "test_probes")
    pool, selection, test, probes = map(setup.footer, names)
    tested = test.num_rows if test else assumed.test_prompts
    return Tables(
        selection.num_rows if selection else assumed.selection_prompts,
        tested,
        probes.num_rows if probes else round(tested * assumed.probes_per_prompt),
        _image_bytes(pool) if pool else assumed.image_bytes,
    )


def _image_bytes(pool: "pq.FileMetaData") -> float:
    """Mean of the pool's images."""
    columns = [
        pool.row_group(group).column(k)
        for group in range(pool.num_row_groups)
        for k in range(pool.num_columns)
    ]
    return sum(
        column.total_uncompressed_size for column in columns if column.path_in_schema == "image.bytes"
    ) / max(pool.num_rows, 1)
