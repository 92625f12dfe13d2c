"""What a run writes, in its manifest; and what it made of something that was lost and came out otherwise."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.files import shown, writing
from rlaifv_kedro.runs.entries import recorded
from rlaifv_kedro.runs.kedro_private import dataset, path_of, saved_version
from rlaifv_kedro.runs.lineage import ROOTS
from rlaifv_kedro.runs.manifest import Entry, Manifest, all_runs, relative
from rlaifv_kedro.runs.outdated import all_outdated, contents, other_input, outdated

logger = logging.getLogger(__name__)


class MadeOtherwise(Exception):
    """Something that was lost has been made again with other content, so what was made of it isn't valid."""


class Recorder:
    """Keeps the records of one run's outputs in its manifest; whoever calls saves that.

    A lost artifact that is made again may come out otherwise: on another machine, or by other software. What
    was made of the earlier one is removed and made again, so that a run is always of one piece.
    """

    def __init__(self, project: Path, catalog: DataCatalog, manifest: Manifest) -> None:
        self._project, self._catalog, self._manifest = project, catalog, manifest
        self._before: dict[str, str] = {}

    def adopt(self, names: Iterable[str]) -> None:
        """Records what is complete but has no hash: it was written just before a kill, its record was not.

        Journals of tables are put right: no record has the hash of these.
        """
        for name in sorted(names):
            entry, found = self._manifest.written.get(name), dataset(self._catalog, name)
            if found.exists():
                if entry is None or entry.sha256 is None:
                    self.record(name)
                if isinstance(found, ChunkedTableDataset):
                    found.restore_journal()

    def record(self, name: str) -> None:
        """Records an output as it is now, complete or not yet."""
        found, known = dataset(self._catalog, name), self._manifest.written.get(name)
        made_of = known.made_of if known else {}
        complete = found.exists()
        entry = recorded(self._project, found, saved_version(found), complete=complete, made_of=made_of)
        self._manifest.written[name] = entry
        if name in ROOTS and entry.sha256:
            grown = {name: entry.sha256}
            self._manifest.lineage = self._manifest.lineage.model_copy(update=grown)
        if entry.sha256 is not None and self._before.pop(name, entry.sha256) != entry.sha256:
            self._say_made_otherwise(name, entry)

    def begin(self, node: Node) -> None:
        """Records of what a node is about to make its outputs; removes what it had begun of other inputs."""
        content = contents(self._manifest)
        made_of = {name: content[name] for name in node.inputs if name in content}
        outputs = {name: dataset(self._catalog, name) for name in node.outputs}
        known = {name: entry for name in outputs if (entry := self._manifest.written.get(name))}
        self._before |= {name: entry.sha256 for name, entry in known.items() if entry.sha256}
        if any(other_input(entry, content) for entry in known.values()):
            self._remove(node)
            known = {}
        for name, found in outputs.items():
            version = saved_version(found)
            path = path_of(found, version)
            if path is not None:
                fresh = Entry(path=relative(self._project, path), version=version)
                self._manifest.written[name] = known.get(name, fresh).model_copy(update={"made_of": made_of})

    def remove_outdated(self, pipeline: Pipeline) -> None:
        """Removes what the pipeline is to make again, and names what another pipeline of the run would."""
        late = outdated(self._manifest)
        for node in pipeline.nodes:
            for name in sorted(late.keys() & set(node.outputs)):
                logger.warning("`%s` was made of an earlier `%s`: it is made again.", name, late[name])
                self._remove(node)
        others = all_outdated(self._manifest).keys() - pipeline.all_outputs()
        if others:
            logger.warning(
                "Made of what has been made again since, and not by the pipelines of this start: %s",
                ", ".join(sorted(others)),
            )

    def check_outdated(self, pipeline: Pipeline) -> None:
        """Has a run begin once more where it isn't of one piece.

        Raises:
            MadeOtherwise: Something that the pipeline makes was made of what has other content now.
        """
        if outdated(self._manifest).keys() & pipeline.all_outputs():
            raise MadeOtherwise

    def _remove(self, node: Node) -> None:
        """Removes all that this run has of a node's outputs, with the work folders in their place."""
        for name in node.outputs:
            found = dataset(self._catalog, name)
            version = saved_version(found)
            path = path_of(found, version)
            if path is None:
                continue
            place = path.parent if version else path
            with writing(place):
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)

    def _say_made_otherwise(self, name: str, entry: Entry) -> None:
        readers = [
            run.run_id
            for run in all_runs(self._project, logger.debug)
            for read in run.read.values()
            if (read.path, read.version) == (entry.path, entry.version) and read.sha256 != entry.sha256
        ]
        others = sorted(set(readers) - {self._manifest.run_id})
        of_others = f" Runs that have read the earlier one: {', '.join(others)}." if others else ""
        logger.warning(
            "`%s` (%s) was made again and came out otherwise; what this run made of the earlier one is made"
            " again.%s",
            name,
            shown(self._project / entry.path),
            of_others,
        )
