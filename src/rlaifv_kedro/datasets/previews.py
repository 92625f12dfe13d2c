"""What Kedro-Viz shows of a table: its first rows, or its pictures with the rows behind them.

Kedro-Viz goes by the name of the return type. It has no table with pictures: its tables show text alone, and
its HTML reads Markdown after it has been cleaned, which would let an answer make links. So pictures come as
a Plotly figure.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rlaifv_kedro import schemas
from rlaifv_kedro.datasets.versioned import In, Out, RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import thumbnail_url

if TYPE_CHECKING:
    from kedro.io.core import Version
    from kedro_datasets._typing import PlotlyPreview, TablePreview

PREVIEW_TEXT = 200  # characters
ACROSS = 4  # pictures in a line
_HOVER_WIDTH = 60  # characters


class BaseTableDataset(RunVersionedDataset[In, Out]):
    """The base of tables' datasets: which table it is, and the ``preview`` that Kedro-Viz asks for."""

    def __init__(
        self,
        filepath: str,
        table: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the file or folder, and its table.

        Args:
            filepath: Parquet file, or folder of the chunks.
            table: Name of the table in ``rlaifv_kedro.schemas.TABLES``.
            version: Set by Kedro for entries with ``versioned: true``.
            metadata: For plugins such as Kedro-Viz.

        Raises:
            UserError: There is no such table.
        """
        super().__init__(filepath, version, metadata)
        schemas.table(table)
        self._table = table

    def first_rows(self, count: int) -> pa.Table:
        """The first rows of the newest version."""
        raise NotImplementedError

    def shape(self) -> tuple[int, int]:
        """Rows and columns, without reading the rows."""
        raise NotImplementedError

    @property
    def preview(self) -> Callable[..., Any]:
        """:meth:`preview_pictures` of a table with pictures, else :meth:`preview_rows`."""
        has_pictures = any(field.type == schemas.IMAGE for field in schemas.table(self._table).schema)
        return self.preview_pictures if has_pictures else self.preview_rows

    def preview_rows(self, nrows: int = 5) -> TablePreview:
        """The first rows; long texts are cut."""
        rows = self.first_rows(nrows)
        data = [[_cell(value) for value in row.values()] for row in rows.to_pylist()]
        return {"index": list(range(len(data))), "columns": rows.column_names, "data": data}

    def preview_pictures(self, nrows: int = 8) -> PlotlyPreview:
        """Thumbnails of the first rows, each with its row's other cells in a box under the mouse."""
        rows = self.first_rows(nrows).to_pylist()
        places = [(i % ACROSS, -(i // ACROSS)) for i in range(len(rows))]
        hidden = {"visible": False, "fixedrange": True}
        lines = max(1, -(-len(rows) // ACROSS))
        return {
            "data": [
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [x for x, _ in places],
                    "y": [y for _, y in places],
                    "text": [_hover(row) for row in rows],
                    "hoverinfo": "text",
                    "marker": {"opacity": 0},
                }
            ],
            "layout": {
                "images": [_image(row, place) for row, place in zip(rows, places) if _picture(row)],
                "xaxis": {**hidden, "range": [-0.5, ACROSS - 0.5]},
                "yaxis": {**hidden, "range": [0.5 - lines, 0.5], "scaleanchor": "x"},
                "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
                "hovermode": "closest",
                "hoverdistance": -1,  # of any place the nearest picture
                "hoverlabel": {"align": "left"},
            },
        }

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "table": self._table}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and len(value) > PREVIEW_TEXT:
        return value[:PREVIEW_TEXT] + "…"
    return value


def _picture(row: dict[str, Any]) -> dict[str, Any] | None:
    return next((value for value in row.values() if isinstance(value, dict)), None)


def _image(row: dict[str, Any], place: tuple[int, int]) -> dict[str, Any]:
    """A thumbnail, as Plotly places one; without its source where the picture can't be read."""
    where = {"xref": "x", "yref": "y", "xanchor": "center", "yanchor": "middle"}
    box = {**where, "x": place[0], "y": place[1], "sizex": 0.94, "sizey": 0.94}
    with suppress(UserError):
        box["source"] = thumbnail_url(_picture(row) or {}, "preview")
    return box


def _hover(row: dict[str, Any]) -> str:
    """The row's other cells, a line each, as Plotly's own markup has them: text from outside stays text."""
    cells = {name: _cell(value) for name, value in row.items() if not isinstance(value, dict)}
    shown = {name: str(value) for name, value in cells.items() if value is not None}
    wrapped = {name: textwrap.wrap(value, _HOVER_WIDTH) for name, value in shown.items()}
    return "<br>".join(
        f"<b>{name}</b> {'<br>    '.join(html.escape(line, quote=False) for line in lines)}"
        for name, lines in wrapped.items()
    )
