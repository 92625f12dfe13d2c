"""A node that alters what it reads is run again where that is made again."""

from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.datasets.checkpoint import REMOVED
from rlaifv_kedro.files import writing
from rlaifv_kedro.runs.kedro_private import dataset, path_of, saved_version
from rlaifv_kedro.tags import Task


def forget_tidying(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Removes what a tidying node has recorded, where what it alters is going to be made again.

    Kedro runs nodes whose outputs are missing. Without this, checkpoints that were lost and are made again
    would all stay, with cards that say nothing of what was measured. As long as the record of removed
    checkpoints is there, none is made again.

    Raises:
        UserError: A record can't be removed.
    """
    for node in pipeline.nodes:
        altered = node.inputs[0] if Task.TIDYING in node.tags else None
        if altered not in pipeline.all_outputs() or _is_tidy(dataset(catalog, altered)):
            continue
        for record in (dataset(catalog, name) for name in node.outputs):
            path = path_of(record, saved_version(record))
            with writing(path):
                path.unlink(missing_ok=True)


def _is_tidy(altered: AbstractDataset) -> bool:
    folder = path_of(altered, saved_version(altered))
    return altered.exists() or (folder / REMOVED).exists()
