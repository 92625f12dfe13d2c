"""The catalog's entries of pairs from elsewhere."""

from __future__ import annotations

import fnmatch
import logging
from pathlib import Path
from typing import Any

from rlaifv_kedro.datasets.pair_rows import Form
from rlaifv_kedro.datasets.pair_sources import PairSource, ParquetPairs
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line

logger = logging.getLogger(__name__)


class PairSourceDataset(RunVersionedDataset[PairSource, None]):
    """Parquet files with pairs, in the published or in TRL's conversational form.

    Loads as a :class:`PairSource`; read only, without versions.
    """

    def __init__(
        self,
        filepath: str,
        form: Form | None = None,
        hub: str | None = None,
        revision: str | None = None,
        files: str = "*.parquet",
        rows: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the files.

        Args:
            filepath: A parquet file, or a folder with some.
            form: ``published`` or ``trl``; without one it is found out.
            hub: Name of a dataset on the Hugging Face hub, fetched to the folder if it isn't there.
            revision: Its branch, tag or commit, for that fetch.
            files: Pattern of the files' names in the folder; ``*`` also stands for folders.
            rows: How many there must be in all, so that an incomplete download is noticed.
            metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath, None, metadata)
        self._form, self._hub, self._revision, self._pattern, self._rows = form, hub, revision, files, rows
        if hub:
            self.metadata = {"fetch": self._command(), **(metadata or {})}

    def is_complete(self, path: Path) -> bool:
        """There are files, and no download is unfinished."""
        return bool(self._paths(path)) and not any((path / ".cache").rglob("*.incomplete"))

    def load(self) -> PairSource:
        """The rows, after fetching what is missing of a dataset of the hub.

        Raises:
            UserError: They can't be fetched, are damaged, fewer or more than they should be, or no pairs.
        """
        self._fetch()
        path = self.load_path()
        files = self._paths(path)
        if not files:
            raise UserError(f"{shown(path)} holds no file {self._pattern}. {self.remedy()}")
        source = ParquetPairs(files, self._form, path if path.is_dir() else path.parent)
        if self._rows is not None and len(source) != self._rows:
            raise UserError(
                f"{shown(path)} holds {len(source):,} rows in {len(files)} files, and should hold "
                f"{self._rows:,}. {self.remedy()} Where fewer are "
                "meant, take `rows` out of the catalog's entry."
            )
        return source

    def save(self, data: Any) -> None:
        """Refused."""
        raise TypeError("a source of pairs is read only")

    def remedy(self) -> str:
        """How to get the files, as a sentence."""
        if self._hub is None:
            return "Put the right files there, or change `filepath` in the catalog."
        return f"Fetch it, here or where there is a network, with: {self._command()}"

    def waits(self) -> bool:
        """Whether ``load`` will need a network."""
        return self._hub is not None and not self.exists()

    def _fetch(self) -> None:
        if not self.waits():
            return
        import huggingface_hub
        from huggingface_hub.errors import HTTPError

        logger.info("Fetching %s from the Hugging Face hub to %s", self._hub, shown(self._filepath))
        try:
            huggingface_hub.snapshot_download(
                self._hub,
                repo_type="dataset",
                revision=self._revision,
                local_dir=str(self._filepath),
                allow_patterns=[self._pattern],
            )
        except (OSError, ValueError, HTTPError) as error:
            raise UserError(f"{self._hub} can't be fetched ({first_line(error)}). {self.remedy()}") from error
        if not self.exists():  # without a network an unfinished folder is passed off as the whole
            raise UserError(f"{shown(self._filepath)} is incomplete. {self.remedy()}")

    def _command(self) -> str:
        revision = f" --revision {self._revision}" if self._revision else ""
        return (
            f"hf download {self._hub} --repo-type dataset --include '{self._pattern}'{revision} "
            f"--local-dir {shown(self._filepath)}"
        )

    def _paths(self, path: Path) -> list[Path]:
        """The files, without hidden ones, by name."""
        if path.is_file():
            return [path]
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return [
            path / name
            for name in names
            if fnmatch.fnmatch(name, self._pattern) and not any(p.startswith(".") for p in name.split("/"))
        ]

    def _describe(self) -> dict[str, Any]:
        return {
            **super()._describe(),
            "form": self._form,
            "hub": self._hub,
            "revision": self._revision,
            "files": self._pattern,
            "rows": self._rows,
        }
