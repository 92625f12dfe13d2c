"""Whether the catalog entries that a run reads are there and can be used.

A fault in the test images would else come out after the first iteration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from kedro.io import AbstractDataset, DataCatalog
from kedro.io.core import DatasetError

from rlaifv_kedro.datasets.documents import JsonDataset
from rlaifv_kedro.datasets.images import ImagesDataset
from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.parquet import open_parquet, reading
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.images import image_fault
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.runs.entries import notes_of
from rlaifv_kedro.runs.kedro_private import dataset, filepath, is_versioned
from rlaifv_kedro.runs.missing import Missing
from rlaifv_kedro.schemas import IMAGE, cast_arrow, conform, table

FIRST_IMAGES = 8
"""Looked at in the pool, where damaged images only become rejects. In other tables they would stop the
run: all are looked at, to a limit.
"""
MOST_IMAGES = 2000
SPLITS = ("selection", "test")


@dataclass
class Inputs:
    """What was found out about the run's inputs.

    Attributes:
        tables: Rows of the tables without their images, by entry.
        documents: JSON, by entry.
        image_bytes: Mean size of the pool's first images; 0 where it names files.
    """

    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    image_bytes: float = 0


def own_tables(names: Iterable[str], catalog: DataCatalog) -> list[str]:
    """Of these entries the tables and documents that are there and have no versions: no run has made them."""
    own = []
    for name in names:
        found = dataset(catalog, name) if name in catalog else None
        if isinstance(found, TableDataset | JsonDataset) and not is_versioned(found) and found.exists():
            own.append(name)
    return own


def look_at_inputs(names: Iterable[str], catalog: DataCatalog, missing: Mapping[str, Missing]) -> Inputs:
    """Look at entries that a run reads and doesn't make.

    Args:
        missing: Those that are not there, or not for this run.
    """
    inputs = Inputs()
    for name in names:
        if name not in catalog:
            remedy = "Add it to conf/, or run the pipeline that makes it together with this one."
            inputs.findings.append(Finding(False, f"{name}: it is not in the catalog", "conf/", remedy))
            continue
        found = dataset(catalog, name)
        if getattr(found, "IS_FILE", True):
            _check_entry(name, found, inputs, missing.get(name))
    return inputs


def _check_entry(name: str, found: AbstractDataset, inputs: Inputs, missing: Missing | None) -> None:
    where = shown(filepath(found) or name)
    try:
        if isinstance(found, RemoteFileDataset | ImagesDataset):
            inputs.findings.append(_published(name, found))
        elif missing is not None:
            inputs.findings.append(
                Finding(False, f"{name}: it {missing.why}", missing.where or where, missing.remedy)
            )
        elif isinstance(found, PairSourceDataset) and not found.exists():
            # The run would fetch it, which takes long: the command does it before.
            fetch = notes_of(found).get("fetch", "")
            inputs.findings.append(Finding(False, f"{name}: it is not there", where, fetch))
        elif isinstance(found, TableDataset):
            _check_table(name, found, inputs)
        elif isinstance(found, PairSourceDataset):
            inputs.findings.append(Finding(True, f"{name}: {len(found.load()):,} pairs", where))
        elif isinstance(found, JsonDataset):
            inputs.documents[name] = found.load()
            inputs.findings.append(Finding(True, f"{name}: it can be read", where))
    except DatasetError as error:
        inputs.findings.append(Finding(False, f"{name}: it can't be used", where, str(error)))


def _published(name: str, found: RemoteFileDataset | ImagesDataset) -> Finding:
    """A published file, or pictures; nothing is fetched here.

    Raises:
        UserError: It isn't there and can't be fetched, or is not the published one.
    """
    pictures = isinstance(found, ImagesDataset)
    where = shown(found.folder if pictures else filepath(found))
    if found.waits():
        return Finding(True, f"{name}: not there; the run will fetch it first, which needs a network", where)
    found.load()
    if pictures and found.grows():
        return Finding(True, f"{name}: pictures that lack will be fetched when they are asked for", where)
    return Finding(True, f"{name}: it can be read", where)


def _check_table(name: str, found: TableDataset, inputs: Inputs) -> None:
    """Schema, keys and texts of all rows, without their images; and some images or all.

    Raises:
        UserError: The table can't be used.
    """
    path, spec = found.load_path(), table(found._table)
    with reading(path, "Write it again."), open_parquet(path, "Write it again.") as file:
        columns = file.schema_arrow.names
        apart = ["image"] if "image" in columns and "image" in spec.schema.names else []
        rows = file.read(columns=[column for column in columns if column not in apart])
        if apart:
            first = next(file.iter_batches(FIRST_IMAGES), None)
            conform(
                found._table,
                pa.Table.from_batches([first] if first else [], file.schema_arrow),
                shown(path),
            )
            counted, faults = _look_at_images(
                file, FIRST_IMAGES if name == "prompt_pool" else MOST_IMAGES, name, inputs
            )
    inputs.tables[name] = conform(found._table, rows, shown(path), apart)
    opened = ""
    if apart:
        if faults:
            raise UserError(
                f"{len(faults)} of the first {counted:,} images don't open. The first: {faults[0]}. Replace "
                "it or remove the row. A relative path counts from the folder in which the run is started."
            )
        opened = f", the first {counted:,} images open" if counted < len(rows) else ", all images open"
    inputs.findings.append(Finding(True, f"{name}: {len(rows):,} rows{opened}", shown(path)))


def _look_at_images(file: pq.ParquetFile, most: int, name: str, inputs: Inputs) -> tuple[int, list[str]]:
    """How many images were looked at, and what is wrong with which."""
    faults, count, size = [], 0, 0
    for batch in file.iter_batches(min(most, 64), columns=["image"]):
        images = cast_arrow(pa.chunked_array([batch["image"]]), IMAGE).to_pylist()
        for image in images[: most - count]:
            if image is not None:
                size += len(image["bytes"] or b"")
                why = image_fault(image)
                faults += [f"row {count}: {why}"] if why else []
            count += 1
        if count >= most:
            break
    if name == "prompt_pool":
        inputs.image_bytes = size / max(count, 1)
    return count, faults


def check_truth(split: str, inputs: Inputs) -> list[Finding]:
    """Whether a split's annotations and yes/no questions are about its images.

    The annotations must hold the truth about every image of the split's prompts.
    """
    from rlaifv_kedro.benchmarks.coco.truth import truth_of_split

    prompts = inputs.tables.get(f"{split}_prompts")
    names = [f"{split}_instances", f"{split}_captions"]
    if prompts is None:
        return []
    ids, findings = set(prompts["image_id"].to_pylist()), []
    if all(name in inputs.documents for name in names):
        try:
            truth = truth_of_split(split, *(inputs.documents[name] for name in names))
            findings += _strangers(
                ids - set(truth["image_id"]),
                f"{split}_prompts",
                "without annotations",
                "Give the annotation files that they are from.",
            )
        except UserError as error:
            what = f"{names[0]}, {names[1]}: not COCO annotations of use"
            findings.append(Finding(False, what, split, error.message))
    probes = inputs.tables.get(f"{split}_probes")
    if probes is not None:
        about = set(probes["image_id"].to_pylist())
        findings += _strangers(
            about - ids, f"{split}_probes", f"that {split}_prompts doesn't have", "Leave out these questions."
        )
        answers = set(probes["answer"].to_pylist()) - {"yes", "no"}
        if answers:
            what = f"{split}_probes: answers other than yes and no, such as {min(answers)!r}"
            findings.append(Finding(False, what, f"{split}_probes", "Write yes or no, in small letters."))
    return findings


def _strangers(ids: Iterable[Any], name: str, what: str, remedy: str) -> list[Finding]:
    some = sorted(map(str, ids))
    return (
        [Finding(False, f"{name}: {len(some)} images {what}, such as image_id {some[0]}", name, remedy)]
        if some
        else []
    )
