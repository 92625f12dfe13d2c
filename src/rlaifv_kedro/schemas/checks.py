"""One check for all tables, on the way in and out of a file."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.schemas.kind import Table
from rlaifv_kedro.schemas.tables import IMAGE, table

_NULLABLE = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


def check(table_name: str, frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The frame with the schema's column order and types.

    Args:
        table_name: A key of :data:`TABLES`.
        frame: Rows; columns beyond the schema are kept.
        where: File or catalog entry, for the message.

    Raises:
        UserError: A column is missing or of another type, a value is missing, a text is empty, or a key comes
            twice.
    """
    return to_frame(conform(table_name, frame, where))


def to_frame(rows: pa.Table) -> pd.DataFrame:
    """Arrow to pandas: lists stay lists; whole numbers and booleans stay such where one is missing."""
    columns = {}
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_list(field.type):
            columns[field.name] = pd.Series(column.to_pylist(), dtype=object)
        elif field.type in _NULLABLE and column.null_count:
            columns[field.name] = column.to_pandas(types_mapper=_NULLABLE.get)
        else:
            columns[field.name] = column.to_pandas()
    return pd.DataFrame(columns, columns=rows.column_names)


def conform(
    table_name: str, rows: pa.Table | pd.DataFrame, where: str, apart: Sequence[str] = (), start: int = 0
) -> pa.Table:
    """As :func:`check`, for Arrow tables or frames, returning Arrow without metadata.

    Args:
        apart: Columns that ``rows`` lack because :func:`conform_column` is asked about them.
        start: The table's row with which they begin, for the message.

    Raises:
        UserError: See :func:`check`.
    """
    spec = table(table_name)
    names = list(rows.columns) if isinstance(rows, pd.DataFrame) else rows.column_names
    refuse_repeated(names, where)
    there = {*names, *apart, *spec.optional}
    missing = [name for name in spec.schema.names if name not in there]
    if missing:
        raise UserError(
            f"{where}: a table of {table_name} needs the column{'s' * (len(missing) > 1)} "
            f"{', '.join(f'`{m}`' for m in missing)}; "
            f"it has {', '.join(f'`{n}`' for n in names) or 'none'}. Add what is missing, or point the "
            "catalog entry at the right file."
        )
    fields = [field for field in spec.schema if field.name in names]
    arrays = [_cast(rows[field.name], field, where, start) for field in fields]
    for name in names:
        if name not in spec.schema.names:
            extra = rows[name] if isinstance(rows, pa.Table) else _extra(rows[name], name, where)
            fields.append(pa.field(str(name), extra.type))
            arrays.append(extra)
    result = pa.table(arrays, schema=pa.schema(fields))
    _check_values(spec, result, where, start)
    refuse_repeated_keys(table_name, result, where, start)
    return result


def refuse_repeated_keys(table_name: str, rows: pa.Table, where: str, start: int = 0) -> None:
    """Raise UserError if two rows have the same key."""
    spec = table(table_name)
    keys = rows.select(list(spec.key))
    if keys.column(0).num_chunks > 1 and _distinct_in_pieces(keys):
        return
    named_rows = keys.to_pandas()
    twice = named_rows.duplicated()
    if twice.any():
        row = int(twice.argmax())
        key = named_rows.iloc[row]
        first = int((named_rows == key).all(axis=1).argmax())
        named = ", ".join(f"{name}={key[name]}" for name in spec.key)
        raise UserError(
            f"{where}: the key {named} comes twice, in rows {start + first} and {start + row} (counted from "
            "0). Keep one of the two."
        )


def _distinct_in_pieces(keys: pa.Table) -> bool:
    """Whether no two pieces share a value of the first column, and no two rows of a piece are equal.

    Then all rows are distinct, and to know it takes one piece's memory and the first column's values. Rows
    may be distinct without that, too.
    """
    seen: set[Any] = set()
    for piece in keys.to_batches():
        own = set(pc.unique(piece.column(0)).to_pylist())
        if not seen.isdisjoint(own) or piece.to_pandas().duplicated().any():
            return False
        seen |= own
    return True


def conform_column(
    table_name: str, name: str, column: pd.Series | pa.ChunkedArray, where: str, start: int
) -> pa.Array | pa.ChunkedArray:
    """Some rows of a table's column as the schema wants them.

    Args:
        start: The table's row with which they begin, for the message.

    Raises:
        UserError: They are of another type, or a value is missing.
    """
    field = table(table_name).schema.field(name)
    values = _cast(column, field, where, start)
    _refuse_missing(field, values, where, start)
    return values


def refuse_repeated(names: Sequence[str], where: str) -> None:
    """Raise UserError if a column comes twice: which of the two is meant, nobody knows."""
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{where}: the column `{repeated[0]}` comes twice. Keep one of the two.")


def _cast(
    column: pd.Series | pa.ChunkedArray, field: pa.Field, where: str, start: int = 0
) -> pa.Array | pa.ChunkedArray:
    try:
        if isinstance(column, pd.Series):
            return pa.array(column, type=field.type, from_pandas=True)
        return cast_arrow(column, field.type)
    except Exception as error:  # beside Arrow's own: OverflowError, TypeError, ValueError and others
        parts = (column[row : row + 1] for row in range(len(column)))
        row, part = next(((r, p) for r, p in enumerate(parts) if not _fits(p, field.type)), (None, None))
        at = "" if row is None else f", row {start + row} holds {_only(part)}"
        raise UserError(
            f"{where}: the column `{field.name}` must be {field.type}{at} ({_short(error)}). Convert the "
            "column first."
        ) from error


def _only(part: pd.Series | pa.ChunkedArray) -> str:
    """The value of one row."""
    try:
        return _short(next(iter(part.tolist() if isinstance(part, pd.Series) else part.to_pylist())))
    except Exception:  # Arrow's dates go further than Python's
        return "a value that Python doesn't have"


def cast_arrow(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """The column in another type, where that means the same.

    Images may be given as bytes alone, or as texts, which are paths. A whole number that is missing may be
    NaN, as pandas writes it.

    Raises:
        pa.ArrowException: The values don't fit.
        TypeError: Arrow would convert them, but to something else: a date to its microseconds, a number to
            true.
    """
    dtype = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(dtype):
        return column.cast(wanted)
    if wanted == IMAGE and not pa.types.is_struct(dtype):
        column = _images(column, dtype)
    elif pa.types.is_struct(wanted) and not {field.name for field in dtype} & {
        field.name for field in wanted
    }:
        raise TypeError(f"it holds none of {', '.join(field.name for field in wanted)}")
    changes_meaning = (
        pa.types.is_temporal(dtype)
        or pa.types.is_boolean(dtype) != pa.types.is_boolean(wanted)
        or (pa.types.is_floating(dtype) and pa.types.is_string(wanted))
    )
    if changes_meaning:
        raise TypeError(f"{dtype} is something else")
    if pa.types.is_floating(dtype) and pa.types.is_integer(wanted):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(wanted)


def _images(column: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    names = {pa.binary(): "bytes", pa.large_binary(): "bytes", pa.string(): "path", pa.large_string(): "path"}
    if dtype not in names:
        raise TypeError(f"{dtype} is no image; bytes and paths are")
    values = column.cast(IMAGE.field(names[dtype]).type).combine_chunks()
    empty = pa.nulls(len(values), pa.null())
    parts = [values if field.name == names[dtype] else empty.cast(field.type) for field in IMAGE]
    return pa.chunked_array([pa.StructArray.from_arrays(parts, fields=list(IMAGE), mask=values.is_null())])


def _fits(part: pd.Series | pa.ChunkedArray, dtype: pa.DataType) -> bool:
    try:
        if isinstance(part, pd.Series):
            pa.array(part, type=dtype, from_pandas=True)
        elif part.null_count < len(part):
            cast_arrow(part, dtype)
    except Exception:  # as in _cast
        return False
    return True


def _extra(column: pd.Series, name: str, where: str) -> pa.Array:
    try:
        return pa.array(column, from_pandas=True)
    except Exception as error:  # as in _cast
        raise UserError(
            f"{where}: the column `{name}` mixes types that a table cannot hold ({_short(error)}). Drop or "
            "convert it."
        ) from error


def _check_values(spec: Table, rows: pa.Table, where: str, start: int) -> None:
    for field in rows.schema:
        column = rows[field.name]
        _refuse_missing(field, column, where, start)
        if (
            field.name in spec.filled
            and (row := _first(pc.equal(pc.utf8_trim_whitespace(column), ""))) is not None
        ):
            raise UserError(
                f"{where}: row {start + row} has an empty text in the column `{field.name}`. Fill it in, or "
                "leave the row out."
            )


def _refuse_missing(field: pa.Field, column: pa.ChunkedArray, where: str, start: int = 0) -> None:
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(field.type))
    if not field.nullable and (row := _first(missing)) is not None:
        raise UserError(
            f"{where}: row {start + row} has no value in the column `{field.name}`. Fill it in, or leave the "
            "row out."
        )


def _first(mask: pa.ChunkedArray) -> int | None:
    """Index of the first true value, or None."""
    index = pc.index(mask, True).as_py()
    return None if index < 0 else index


def _short(value: object) -> str:
    """A value or an error on one line."""
    if isinstance(value, str):
        return shortened(repr(value), 80)
    return shortened((str(value) or "nothing").splitlines()[0], 80)
