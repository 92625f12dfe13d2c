"""What a table is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from rlaifv_kedro.formats import shortened


@dataclass(frozen=True)
class Table:
    """One table: its columns, what makes a row unique, and which texts must say something.

    Attributes:
        schema: Arrow schema; ``nullable=False`` fields hold no null and no NaN.
        key: Columns that together name a row.
        filled: String columns that may not be empty or blank.
        optional: Columns that a file may lack (rows from elsewhere, e.g. the published dataset).
        longest: Characters of a text in a frame that is made of rows; longer ones are cut.
    """

    schema: pa.Schema
    key: tuple[str, ...]
    filled: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    longest: Mapping[str, int] = field(default_factory=dict)

    def frame(self, rows: Sequence[Sequence[object]]) -> pd.DataFrame:
        """Rows of values in the order of the columns, as a frame; types are checked when it is saved."""
        frame = pd.DataFrame(rows, columns=self.schema.names)
        for name, most in self.longest.items():
            frame[name] = [shortened(text, most) for text in frame[name]]
        return frame
