"""Documents of a report: JSON, text and HTML, figures."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, read_json, shown, write_atomically

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview, JSONPreview
    from matplotlib.figure import Figure

FIGURE_DPI = 150


class JsonDataset(RunVersionedDataset[Any, Any]):
    """JSON with two spaces of indent, keys in their order.

    NaN and infinity, which JSON does not know, become null.
    """

    def load(self) -> Any:
        """The document."""
        return read_json(self.load_path(), self.remedy())

    def save(self, data: Any) -> None:
        """Writes the document; the same content gives the same bytes."""
        text = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.save_path(), text.encode() + b"\n")

    def preview(self) -> JSONPreview:
        """The document, for Kedro-Viz."""
        return json.dumps(self.load())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TextDataset(RunVersionedDataset[str, str]):
    """UTF-8 text with Unix line ends, as it is: also HTML and Markdown."""

    def load(self) -> str:
        """The text.

        Raises:
            UserError: It is not UTF-8.
        """
        path = self.load_path()
        try:
            return read_bytes(path, self.remedy()).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{shown(path)} is not UTF-8 text ({error}). {self.remedy()}") from error

    def save(self, data: str) -> None:
        """Writes the text."""
        write_atomically(self.save_path(), data.encode())


class FigureDataset(RunVersionedDataset["Figure", bytes]):
    """A matplotlib figure as PNG without software name and date; loads as the file's bytes."""

    def load(self) -> bytes:
        """The PNG file's content."""
        return read_bytes(self.load_path(), self.remedy())

    def save(self, data: Figure) -> None:
        """Draws the figure; the same figure gives the same bytes."""
        image = io.BytesIO()
        data.savefig(image, format="png", dpi=FIGURE_DPI, bbox_inches="tight", metadata={"Software": None})
        write_atomically(self.save_path(), image.getvalue())

    def preview(self) -> ImagePreview:
        """The picture, for Kedro-Viz."""
        return base64.b64encode(self.load()).decode()
