"""The project's tables: columns, types, keys, and one check for all of them.

Every table that a dataset reads or writes passes :func:`conform` (Arrow) or :func:`check` (pandas). Columns
beyond the schema are kept, after the schema's own.
"""

from rlaifv_kedro.schemas.checks import (
    cast_arrow,
    check,
    conform,
    conform_column,
    refuse_repeated,
    refuse_repeated_keys,
    to_frame,
)
from rlaifv_kedro.schemas.tables import FINGERPRINT, IMAGE, TABLES, table

__all__ = [
    "FINGERPRINT",
    "IMAGE",
    "TABLES",
    "cast_arrow",
    "check",
    "conform",
    "conform_column",
    "refuse_repeated",
    "refuse_repeated_keys",
    "table",
    "to_frame",
]
