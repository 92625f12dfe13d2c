"""Records of preference data, in the forms that they are published in, as pairs to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.schemas import refuse_repeated

Form = Literal["published", "trl"]

COLUMNS: dict[Form, tuple[str, ...]] = {
    "published": ("image", "question", "chosen", "rejected"),
    "trl": ("images", "prompt", "chosen", "rejected"),
}
"""What a row needs. ``published``: openbmb/RLAIF-V-Dataset, texts and one image. ``trl``: trl-lib/rlaif-v,
TRL's conversational preference form (huggingface.co/docs/trl/dataset_formats): lists of messages, whose
content is a text or a list of parts, and a list of images.
"""

ORIGIN = ("origin_dataset", "origin_split")


@dataclass(frozen=True, eq=False)
class PairRow:
    """One pair.

    Attributes:
        image: A dict with ``bytes`` and ``path``, one of which may be None.
        origin_split: JSON text, or None.
    """

    question: str
    chosen: str
    rejected: str
    image: dict[str, Any]
    origin_dataset: str
    origin_split: str | None


class _Unusable(ValueError):
    """Why a record is no pair."""


def form_of(schema: pa.Schema, wanted: Form | None, where: str) -> Form:
    """The form of a table of pairs, told by the type of its answers.

    Args:
        wanted: What the catalog entry says it is; None finds it out.
        where: File or entry, for the message.

    Raises:
        UserError: It is of neither form, or not of the one that is wanted.
    """
    refuse_repeated(schema.names, where)
    for name in ORIGIN:
        if name in schema.names and not _is_text(schema.field(name).type):
            raise UserError(
                f"{where}: the column `{name}` must be a text, not "
                f"{shortened(str(schema.field(name).type), 60)}. Convert it, or leave it out."
            )
    forms = (wanted,) if wanted else tuple(COLUMNS)
    for form in forms:
        if all(name in schema.names and _FITS[form, name](schema.field(name).type) for name in COLUMNS[form]):
            return form
    needed = " or ".join(
        ", ".join(f"`{name}`" for name in COLUMNS[form]) + f" ({_KINDS[form]})" for form in forms
    )
    has = ", ".join(f"`{field.name}` {shortened(str(field.type), 30)}" for field in schema)
    raise UserError(
        f"{where}: not a table of pairs. It needs {needed}; it has {has or 'no columns'}. Rename or convert "
        "the columns."
    )


_KINDS = {
    "published": "image a struct of bytes and path, or one of them, the others texts",
    "trl": "images a list of such images, the others lists of messages of role and content",
}


def _is_text(dtype: pa.DataType) -> bool:
    if pa.types.is_dictionary(dtype):
        return _is_text(dtype.value_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(dtype) for is_kind in kinds)


def _is_bytes(dtype: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    return any(is_kind(dtype) for is_kind in kinds)


def _is_image(dtype: pa.DataType) -> bool:
    if not pa.types.is_struct(dtype):
        return _is_text(dtype) or _is_bytes(dtype)
    fields = {field.name: field.type for field in dtype}
    return (
        bool(fields.keys() & {"bytes", "path"})
        and _is_bytes(fields.get("bytes", pa.null()))
        and _is_text(fields.get("path", pa.null()))
    )


def _is_list_of(dtype: pa.DataType, is_value: Callable[[pa.DataType], bool]) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(is_kind(dtype) for is_kind in kinds) and is_value(dtype.value_type)


def _is_part(dtype: pa.DataType) -> bool:
    return pa.types.is_struct(dtype) and all(
        dtype.get_field_index(name) >= 0 and _is_text(dtype.field(name).type) for name in ("type", "text")
    )


def _is_message(dtype: pa.DataType) -> bool:
    if not pa.types.is_struct(dtype) or min(map(dtype.get_field_index, ("role", "content"))) < 0:
        return False
    content = dtype.field("content").type
    return _is_text(dtype.field("role").type) and (_is_text(content) or _is_list_of(content, _is_part))


_FITS: dict[tuple[Form, str], Callable[[pa.DataType], bool]] = {
    ("published", "image"): _is_image,
    ("trl", "images"): lambda dtype: _is_list_of(dtype, _is_image),
    **{("published", name): _is_text for name in COLUMNS["published"][1:]},
    **{("trl", name): lambda dtype: _is_list_of(dtype, _is_message) for name in COLUMNS["trl"][1:]},
}


def row_of(form: Form, record: dict[str, Any]) -> PairRow | str:
    """The pair that a record holds, or why it can't be used."""
    try:
        texts, image = _from_messages(record) if form == "trl" else _from_columns(record)
    except _Unusable as error:
        return str(error)
    for name, text in texts.items():
        if not text or not text.strip():
            return f"the {name} is empty"
    if texts["chosen answer"] == texts["rejected answer"]:
        return "the chosen and the rejected answer are the same"
    if isinstance(image, str):
        image = {"bytes": None, "path": image}
    elif isinstance(image, bytes):
        image = {"bytes": image, "path": None}
    if not image or not (image.get("bytes") or image.get("path")):
        return "it has no image"
    return PairRow(
        *texts.values(), image, record.get("origin_dataset") or "", record.get("origin_split") or None
    )


def _from_columns(record: dict[str, Any]) -> tuple[dict[str, str | None], Any]:
    return {
        "question": record["question"],
        "chosen answer": record["chosen"],
        "rejected answer": record["rejected"],
    }, record["image"]


def _from_messages(record: dict[str, Any]) -> tuple[dict[str, str | None], Any]:
    images = record["images"] or []
    if len(images) > 1:
        raise _Unusable(f"it has {len(images)} images, and one is all that can be trained on")
    texts = {
        "question": _only_text(record["prompt"], "prompt", "user"),
        "chosen answer": _only_text(record["chosen"], "chosen", "assistant"),
        "rejected answer": _only_text(record["rejected"], "rejected", "assistant"),
    }
    return texts, images[0] if images else None


def _only_text(messages: list[dict[str, Any]] | None, column: str, role: str) -> str | None:
    """The text of the one message that there is.

    Turns before it, and a system's prompt, have no place in a pair.
    """
    roles = [(message or {}).get("role") for message in messages or []]
    if roles != [role]:
        raise _Unusable(
            f"`{column}` must be one message of the {role}, not {len(roles)} of {_listed(roles) or 'nobody'}"
        )
    content = messages[0].get("content")
    if content is None or isinstance(content, str):
        return content
    kinds = [(part or {}).get("type") for part in content]
    if kinds.count("text") != 1 or set(kinds) - {"text", "image"} or kinds.count("image") > (role == "user"):
        raise _Unusable(
            f"the content of `{column}` is {_listed(kinds) or 'empty'}, not one text"
            + (" and an image" * (role == "user"))
        )
    return content[kinds.index("text")].get("text")


def _listed(values: list[str | None]) -> str:
    return shortened(", ".join(map(str, values)), 80)
