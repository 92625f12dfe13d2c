"""Records of preference data, in the forms that they are published in, as pairs to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened

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
    forms = (wanted,) if wanted else tuple(COLUMNS)
    for form in forms:
        if all(name in schema.names and _fits(form, name, schema.field(name).type) for name in COLUMNS[form]):
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
    "published": "image a struct of bytes and path, the others texts",
    "trl": "images a list of such structs, the others lists of messages",
}


def _fits(form: Form, name: str, dtype: pa.DataType) -> bool:
    if name == "image":
        return pa.types.is_struct(dtype)
    if form == "trl":
        return pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


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
    if not image or not (image.get("bytes") or image.get("path")):
        return "it has no image"
    return PairRow(
        *texts.values(), image, record.get("origin_dataset") or "", record.get("origin_split") or None
    )


def _from_columns(record: dict[str, Any]) -> tuple[dict[str, str | None], dict[str, Any] | None]:
    return {
        "question": record["question"],
        "chosen answer": record["chosen"],
        "rejected answer": record["rejected"],
    }, record["image"]


def _from_messages(record: dict[str, Any]) -> tuple[dict[str, str | None], dict[str, Any] | None]:
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
    roles = [message.get("role") for message in messages or []]
    if roles != [role]:
        raise _Unusable(
            f"`{column}` must be one message of the {role}, not {len(roles)} of "
            f"{', '.join(map(str, roles)) or 'nobody'}"
        )
    content = messages[0].get("content")
    if content is None or isinstance(content, str):
        return content
    kinds = [part.get("type") for part in content]
    if kinds.count("text") != 1 or set(kinds) - {"text", "image"} or kinds.count("image") > (role == "user"):
        raise _Unusable(
            f"the content of `{column}` is {', '.join(map(str, kinds)) or 'empty'}, not one text"
            + (" and an image" * (role == "user"))
        )
    return content[kinds.index("text")].get("text")
