"""The project's tables: columns, types, keys, and one check for all of them.

Every table that a dataset reads or writes passes :func:`conform` (Arrow) or :func:`check` (pandas). Columns
beyond the schema are kept, after the schema's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FINGERPRINT = "fingerprint"
"""``frame.attrs`` key that travels with a table into its file's metadata, as JSON."""


@dataclass(frozen=True)
class Table:
    """One table: its columns, what makes a row unique, and which texts must say something.

    Attributes:
        schema: Arrow schema; ``nullable=False`` fields hold no null and no NaN.
        key: Columns that together name a row.
        filled: String columns that may not be empty or blank.
        optional: Columns that a file may lack (rows from elsewhere, e.g. the published dataset).
    """

    schema: pa.Schema
    key: tuple[str, ...]
    filled: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()


def _schema(columns: dict[str, pa.DataType], nullable: Iterable[str] = ()) -> pa.Schema:
    return pa.schema(
        [pa.field(name, dtype, nullable=name in set(nullable)) for name, dtype in columns.items()]
    )


_TEXT, _I32, _I64, _F64, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_CANDIDATE = {"prompt_id": _TEXT, "candidate": _I32}
_CLAIM = {**_CANDIDATE, "claim": _I32}
_ANSWER = {"benchmark": _TEXT, "item_id": _TEXT, "image_id": _I64}
_METRIC = {
    "benchmark": _TEXT,
    "metric": _TEXT,
    "value": _F64,
    "n": _I64,
    "failed": _I64,
    "standard_error": _F64,
    "protocol": _TEXT,
}
_UNDEFINED = ("value", "standard_error")  # a rate over no object is NaN, not 0
_PAIR_ORIGIN = {
    "chosen_score": _F64,
    "rejected_score": _F64,
    "iteration": _I32,
    "prompt_id": _TEXT,
    "chosen_candidate": _I32,
    "rejected_candidate": _I32,
}
_JUDGEMENT = {
    **dict.fromkeys(
        (
            "benchmark",
            "item_id",
            "step",
            "prompt_hash",
            "asked_model",
            "returned_model",
            "reply",
            "verdict",
            "error",
        ),
        _TEXT,
    ),
    "replies": _I32,
    "prompt_tokens": _I64,
    "reply_tokens": _I64,
}
_UNKNOWN = ("returned_model", "reply", "verdict", "error", "prompt_tokens", "reply_tokens")
_LOGGED = (
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "reward_margin",
    "reward_accuracy",
    "log_ratio_chosen",
    "log_ratio_rejected",
)

TABLES: dict[str, Table] = {
    "prompts": Table(
        _schema(
            {
                "prompt_id": _TEXT,
                "question": _TEXT,
                "image": IMAGE,
                "image_id": _I64,
                "origin_dataset": _TEXT,
                "question_type": _TEXT,
            },
            nullable=("image_id", "question_type"),
        ),
        key=("prompt_id",),
        filled=("prompt_id", "question"),
    ),
    "candidates": Table(
        _schema({**_CANDIDATE, "answer": _TEXT, "token_count": _I32, "finish_reason": _TEXT, "seed": _I64}),
        key=("prompt_id", "candidate"),
    ),
    "claims": Table(
        _schema({**_CLAIM, "text": _TEXT, "question": _TEXT}),
        key=("prompt_id", "candidate", "claim"),
        filled=("text", "question"),
    ),
    "verdicts": Table(
        _schema({**_CLAIM, "p_yes": _F64, "p_no": _F64, "accepted": _BOOL}),
        key=("prompt_id", "candidate", "claim"),
    ),
    "scores": Table(
        _schema({**_CANDIDATE, "claim_count": _I32, "rejected_count": _I32, "score": _F64}),
        key=("prompt_id", "candidate"),
        optional=frozenset(("claim_count", "rejected_count")),  # scores made of rewards know no claims
    ),
    "candidate_rewards": Table(
        _schema(
            {
                **_CANDIDATE,
                "policy_log_prob": _F64,
                "reference_log_prob": _F64,
                "token_count": _I32,
                "reward_sum": _F64,
                "reward": _F64,
            }
        ),
        key=("prompt_id", "candidate"),
    ),
    "preference_pairs": Table(
        _schema(
            {
                "ds_name": _TEXT,
                "image": IMAGE,
                "question": _TEXT,
                "chosen": _TEXT,
                "rejected": _TEXT,
                "origin_dataset": _TEXT,
                "origin_split": _TEXT,
                "idx": _I64,
                "image_path": _TEXT,
                **_PAIR_ORIGIN,
            },
            nullable=("origin_split", "image_path"),
        ),
        key=("idx",),
        filled=("question", "chosen", "rejected"),
        optional=frozenset(_PAIR_ORIGIN),
    ),
    "training_pairs": Table(
        _schema(
            {
                "idx": _I64,
                "question": _TEXT,
                "chosen": _TEXT,
                "rejected": _TEXT,
                "image": IMAGE,
                "origin_dataset": _TEXT,
                "origin_split": _TEXT,
                "source": _TEXT,
                "source_idx": _I64,
                "prompt_key": _TEXT,
                "content_key": _TEXT,
            },
            nullable=("origin_split",),
        ),
        key=("idx",),
        filled=("question", "chosen", "rejected"),
    ),
    "reference_log_probs": Table(
        _schema(
            {"idx": _I64, "chosen": _F64, "rejected": _F64, "chosen_tokens": _I32, "rejected_tokens": _I32}
        ),
        key=("idx",),
    ),
    "benchmark_items": Table(
        _schema(
            {
                "benchmark": _TEXT,
                "item_id": _TEXT,
                "question": _TEXT,
                "image": IMAGE,
                "image_id": _I64,
                "kind": _TEXT,
                "reference": _TEXT,  # JSON: what the scorer knows of the item
            },
            nullable=("image", "image_id", "kind"),
        ),
        key=("benchmark", "item_id"),
        filled=("item_id", "question", "reference"),
    ),
    "policy_answers": Table(
        _schema(
            {
                "policy": _TEXT,
                "benchmark": _TEXT,
                "item_id": _TEXT,
                "question": _TEXT,
                "answer": _TEXT,
                "token_count": _I32,
                "finish_reason": _TEXT,
            }
        ),
        key=("policy", "benchmark", "item_id"),
        filled=("policy", "item_id"),
    ),
    "item_scores": Table(
        _schema(
            {
                "policy": _TEXT,
                "benchmark": _TEXT,
                "item_id": _TEXT,
                "kind": _TEXT,
                "metric": _TEXT,
                "value": _F64,
                "weight": _F64,
                "note": _TEXT,
            },
            nullable=("kind", "value", "note"),
        ),
        key=("policy", "benchmark", "item_id", "metric"),
    ),
    "policy_metrics": Table(
        _schema({"policy": _TEXT, **_METRIC}, nullable=_UNDEFINED), key=("policy", "benchmark", "metric")
    ),
    "policy_comparisons": Table(
        _schema(
            {
                "benchmark": _TEXT,
                "metric": _TEXT,
                "policy": _TEXT,
                "other": _TEXT,
                "difference": _F64,
                "low": _F64,
                "high": _F64,
                "n": _I64,
            },
            nullable=("difference", "low", "high"),
        ),
        key=("benchmark", "metric", "policy", "other"),
    ),
    "coco_truth": Table(
        _schema({"image_id": _I64, "split": _TEXT, "file_name": _TEXT, "categories": pa.list_(_TEXT)}),
        key=("image_id",),
        filled=("file_name",),
    ),
    "answers": Table(
        _schema({**_ANSWER, "question": _TEXT, "answer": _TEXT, "token_count": _I32}, nullable=("image_id",)),
        key=("benchmark", "item_id"),
        filled=("item_id", "question"),
    ),
    "answer_scores": Table(
        _schema(
            {
                **_ANSWER,
                "mention_count": _I32,
                "hallucinated_count": _I32,
                "hallucinated": pa.list_(_TEXT),
                "mentioned": pa.list_(_TEXT),
                "correct_count": _I32,
                "truth_count": _I32,
                "word_count": _I32,
                "repeats": _BOOL,
            },
            nullable=("image_id",),
        ),
        key=("benchmark", "item_id"),
        filled=("item_id",),
    ),
    "judgements": Table(
        _schema(_JUDGEMENT, nullable=_UNKNOWN),
        key=("benchmark", "item_id", "step"),
        filled=("item_id", "step", "asked_model"),
    ),
    "policy_judgements": Table(
        _schema({"policy": _TEXT, **_JUDGEMENT}, nullable=_UNKNOWN),
        key=("policy", "benchmark", "item_id", "step"),
        filled=("item_id", "step", "asked_model"),
    ),
    "metrics": Table(_schema(_METRIC, nullable=_UNDEFINED), key=("benchmark", "metric")),
    "loop_metrics": Table(
        _schema({"iteration": _I64, **_METRIC}, nullable=_UNDEFINED), key=("iteration", "benchmark", "metric")
    ),
    "probes": Table(
        _schema({"item_id": _TEXT, "image_id": _I64, "kind": _TEXT, "question": _TEXT, "answer": _TEXT}),
        key=("item_id",),
    ),
    "checkpoint_metrics": Table(
        _schema({"checkpoint": _TEXT, "step": _I64, "epoch": _F64, **_METRIC}, nullable=_UNDEFINED),
        key=("checkpoint", "benchmark", "metric"),
    ),
    "training_log": Table(
        _schema({"step": _I64, **dict.fromkeys(_LOGGED, _F64)}, nullable=_LOGGED), key=("step",)
    ),
    "rejects": Table(
        _schema({"stage": _TEXT, "key": _TEXT, "why": _TEXT}), key=("stage", "key"), filled=("why",)
    ),
}


def table(name: str) -> Table:
    """The table called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in TABLES:
        raise UserError(f"There is no table called `{name}`. Use one of: {', '.join(TABLES)}.")
    return TABLES[name]


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
    """Arrow to pandas: lists stay lists, whole numbers stay whole numbers (``Int64`` where one is
    missing).
    """
    columns = {}
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_list(field.type):
            columns[field.name] = pd.Series(column.to_pylist(), dtype=object)
        elif pa.types.is_integer(field.type) and column.null_count:
            columns[field.name] = column.to_pandas(
                types_mapper={pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}.get
            )
        else:
            columns[field.name] = column.to_pandas()
    return pd.DataFrame(columns, columns=rows.column_names)


def conform(table_name: str, rows: pa.Table | pd.DataFrame, where: str) -> pa.Table:
    """As :func:`check`, for Arrow tables or frames, returning Arrow without metadata.

    Raises:
        UserError: See :func:`check`.
    """
    spec = table(table_name)
    names = list(rows.columns) if isinstance(rows, pd.DataFrame) else rows.column_names
    missing = [name for name in spec.schema.names if name not in names and name not in spec.optional]
    if missing:
        raise UserError(
            f"{where}: a table of {table_name} needs the column{'s' * (len(missing) > 1)} "
            f"{', '.join(f'`{m}`' for m in missing)}; "
            f"it has {', '.join(f'`{n}`' for n in names) or 'none'}. Add what is missing, or point the "
            "catalog entry at the right file."
        )
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{where}: the column `{repeated[0]}` comes twice. Keep one of the two.")
    fields = [field for field in spec.schema if field.name in names]
    arrays = [_cast(rows[field.name], field, where) for field in fields]
    for name in names:
        if name not in spec.schema.names:
            extra = rows[name] if isinstance(rows, pa.Table) else _extra(rows[name], name, where)
            fields.append(pa.field(str(name), extra.type))
            arrays.append(extra)
    result = pa.table(arrays, schema=pa.schema(fields))
    _check_values(spec, result, where)
    return result


def _cast(column: pd.Series | pa.ChunkedArray, field: pa.Field, where: str) -> pa.Array | pa.ChunkedArray:
    try:
        if isinstance(column, pd.Series):
            return pa.array(column, type=field.type, from_pandas=True)
        return column.cast(field.type)
    except (
        pa.ArrowInvalid,
        pa.ArrowTypeError,
        pa.ArrowNotImplementedError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        values = column if isinstance(column, pd.Series) else column.to_pandas()
        row = next(
            (row for row in range(len(values)) if not _fits(values.iloc[row : row + 1], field.type)), None
        )
        at = "" if row is None else f", row {row} holds {_short(values.iloc[row])}"
        raise UserError(
            f"{where}: the column `{field.name}` must be {field.type}{at} ({_short(error)}). Convert the "
            "column first."
        ) from error


def _fits(values: pd.Series, dtype: pa.DataType) -> bool:
    try:
        pa.array(values, type=dtype, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _extra(column: pd.Series, name: str, where: str) -> pa.Array:
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{where}: the column `{name}` mixes types that a table cannot hold ({_short(error)}). Drop or "
            "convert it."
        ) from error


def _check_values(spec: Table, rows: pa.Table, where: str) -> None:
    for field in rows.schema:
        column = rows[field.name]
        if (
            not field.nullable
            and (row := _first(pc.is_null(column, nan_is_null=pa.types.is_floating(field.type)))) is not None
        ):
            raise UserError(
                f"{where}: row {row} has no value in the column `{field.name}`. Fill it in, or leave the "
                "row out."
            )
        if (
            field.name in spec.filled
            and (row := _first(pc.equal(pc.utf8_trim_whitespace(column), ""))) is not None
        ):
            raise UserError(
                f"{where}: row {row} has an empty text in the column `{field.name}`. Fill it in, or leave "
                "the row out."
            )
    keys = rows.select(list(spec.key)).to_pandas()
    twice = keys.duplicated()
    if twice.any():
        row = int(twice.argmax())
        key = keys.iloc[row]
        first = int((keys == key).all(axis=1).argmax())
        named = ", ".join(f"{name}={key[name]}" for name in spec.key)
        raise UserError(
            f"{where}: the key {named} comes twice, in rows {first} and {row} (counted from 0). Keep one of "
            "the two."
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
