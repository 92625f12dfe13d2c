"""Published files: fetched once, when they are first needed, and read from the disk ever after."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePath
from typing import Any, Literal

from rlaifv_kedro.datasets.download import MOST, DownloadError, download
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.doors import MOST_OF_A_DOCUMENT
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import file_sha256, json_lines, json_value, read_bytes, shown

Form = Literal["file", "text", "json"]


class RemoteFileDataset(RunVersionedDataset[Any, None]):
    """A published file at a local path. Read only, without versions: the sha256 says which it is.

    Making the catalog fetches nothing. A run fetches all of its inputs before its first node
    (``rlaifv_kedro.runs.versions``); elsewhere ``load`` does. ``metadata`` may say ``licence`` and ``manual``
    (how to get the file by hand), for people.
    """

    def __init__(
        self,
        filepath: str,
        url: str | list[str] | None = None,
        sha256: str | None = None,
        form: Form = "file",
        rows: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the file and its source.

        Args:
            filepath: Where the file is, or comes to be.
            url: Its address, or several, tried in order; http or https. None for what is had by hand alone.
            sha256: Of the file, where one is published.
            form: What ``load`` gives: ``file`` the path, ``text`` a str, ``json`` the document. JSON lines,
                in ``.jsonl`` or ``.json``, are a list.
            rows: How many entries the JSON list must have.
            metadata: ``licence``, ``manual``, and what plugins want.
        """
        super().__init__(filepath, None, metadata)
        self._urls = [url] if isinstance(url, str) else list(url or [])
        self._sha256, self._form, self._rows = sha256, form, rows
        if form not in Form.__args__ or any(
            not address.startswith(("http://", "https://")) for address in self._urls
        ):
            raise UserError(
                f"The catalog's entry of {shown(filepath)}: `form` is one of {', '.join(Form.__args__)}; a "
                "`url` starts with http."
            )

    def waits(self) -> bool:
        """Whether the next ``fetch`` or ``load`` will need a network."""
        return bool(self._urls) and not self.exists()

    def fetch(self) -> Path:
        """The local file, after fetching it where it isn't there.

        Raises:
            UserError: It can't be fetched, or is not the published one; says how to get it by hand.
        """
        path = Path(self._filepath)
        if not path.exists():
            self._download(path)
        elif self._sha256 and path.is_file() and file_sha256(path) != self._sha256:
            raise UserError(
                f"{shown(path)} is not the published file: its sha256 is {file_sha256(path)}, and should be "
                f"{self._sha256}. Delete it, and it is "
                "fetched anew; or, if another file is meant, take `sha256` out of the catalog's entry."
            )
        return path

    def load(self) -> Any:
        """Path, text or document, by ``form``.

        Raises:
            UserError: See :meth:`fetch`; or the content is not of this form, or of another number of rows.
        """
        path = self.fetch()
        return path if self._form == "file" else self._parse(read_bytes(path, self._anew()), path)

    def save(self, data: Any) -> None:
        """Refused."""
        raise TypeError("a published file is read only")

    def remedy(self) -> str:
        """How to get the file by hand, as sentences."""
        by_hand = (self.metadata or {}).get("manual") or (
            f"Fetch {self._urls[0]} where there is a network." if self._urls else "Fetch it."
        )
        check = f" Its sha256 is {self._sha256}." if self._sha256 else ""
        return f"By hand: {by_hand} Put it at {shown(self._filepath)}.{check}"

    def _download(self, path: Path) -> None:
        if not self._urls:
            raise UserError(f"{shown(path)} is not there, and can't be fetched by a program. {self.remedy()}")
        try:
            most = MOST if self._form == "file" else MOST_OF_A_DOCUMENT
            download(self._urls, path, self._sha256, check=self._fault, most=most)
        except DownloadError as error:
            raise UserError(
                f"{shown(path)} is not there and can't be fetched ({error}). {self.remedy()}"
            ) from error

    def _anew(self) -> str:
        """What to do about a file that is there and no good."""
        return f"Delete it, and it is fetched anew. {self.remedy()}" if self._urls else self.remedy()

    def _fault(self, path: Path) -> str | None:
        """Why a file that came is not of this entry's form, such as a page that wants a login."""
        try:
            if PurePath(self._filepath).suffix == ".zip" and not zipfile.is_zipfile(path):
                raise ValueError("no zip archive")
            if self._form != "file":
                self._content(path.read_bytes())
        except ValueError as error:
            with open(path, "rb") as file:
                return f"{error}; it begins with {file.read(24)!r}"
        return None

    def _parse(self, content: bytes, path: Path) -> Any:
        try:
            document = self._content(content)
        except ValueError as error:
            raise UserError(f"{shown(path)}, {error}. {self._anew()}") from error
        if self._rows is not None and (not isinstance(document, list) or len(document) != self._rows):
            found = f"{len(document):,} entries" if isinstance(document, list) else "no list"
            raise UserError(
                f"{shown(path)} holds {found}, and should hold {self._rows:,}. {self._anew()} Where fewer "
                "are meant, take out `rows`."
            )
        return document

    def _content(self, content: bytes) -> Any:
        """The text or document.

        Raises:
            ValueError: It is none; names the line.
        """
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise ValueError(f"line {line}: not UTF-8 text ({error.reason})") from error
        lines = PurePath(self._filepath).suffix == ".jsonl"
        return text if self._form == "text" else documents_of(text, lines)

    def _exists(self) -> bool:
        return Path(self._filepath).exists()

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "url": self._urls, "sha256": self._sha256, "form": self._form}


def documents_of(text: str, lines: bool = False) -> Any:
    """A JSON document, or the list of the documents of a JSON lines file.

    Args:
        lines: It is the latter. Otherwise it is found out, as far as it can be: a single line is a document.

    Raises:
        ValueError: It is neither; names the line.
    """
    try:
        if not lines:
            return json_value(text, names_once=True)
    except json.JSONDecodeError as error:
        # A second document begins where the first one ends: one a line, or the only one is damaged.
        if not error.msg.startswith("Extra data"):
            raise ValueError(f"line {error.lineno}: not JSON ({error.msg})") from error
    return [document for _, document in json_lines(text)]
