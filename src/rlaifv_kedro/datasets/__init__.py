"""Kedro datasets of the project: versioned by run, written atomically, the same bytes for the same data."""

from rlaifv_kedro.datasets.checkpoint import CheckpointDataset, CheckpointSetDataset
from rlaifv_kedro.datasets.chunks import Chunk, ChunkedTableDataset, Complete
from rlaifv_kedro.datasets.coco_annotations import CocoAnnotations, CocoAnnotationsDataset
from rlaifv_kedro.datasets.constants import IterationNumberDataset
from rlaifv_kedro.datasets.documents import FigureDataset, JsonDataset, TextDataset
from rlaifv_kedro.datasets.export import ExportFolderDataset
from rlaifv_kedro.datasets.file_set import FileSetDataset, SharedFolderDataset
from rlaifv_kedro.datasets.images import ImagesDataset
from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.pair_store import PairStore, PairStoreDataset
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.datasets.tables import TableDataset

__all__ = [
    "CheckpointDataset",
    "CheckpointSetDataset",
    "Chunk",
    "ChunkedTableDataset",
    "CocoAnnotations",
    "CocoAnnotationsDataset",
    "Complete",
    "ExportFolderDataset",
    "FigureDataset",
    "FileSetDataset",
    "ImagesDataset",
    "IterationNumberDataset",
    "JsonDataset",
    "PairSourceDataset",
    "PairStore",
    "PairStoreDataset",
    "RemoteFileDataset",
    "SharedFolderDataset",
    "TableDataset",
    "TextDataset",
]
