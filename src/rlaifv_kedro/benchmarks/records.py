"""Records from outside: published items, answers, judgements. A record knows where it stands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened

YES_NO = ("yes", "no")
# What the published files and the programs that fill them in call it. POPE's and LLaVA's answers have
# question_id, prompt and text; AMBER's id and response; MMHal-Bench's model_answer; CHAIR's caption;
# VLMEvalKit's index and prediction.
ITEM_NAMES = ("item_id", "id", "question_id", "index")
IMAGE_NAMES = ("image_id", "image", "image_url", "image_src", "image_path", "file_name")
QUESTION_NAMES = ("question", "prompt", "query")
KIND_NAMES = ("kind", "split", "category", "question_type", "type")
ANSWER_NAMES = ("answer", "response", "model_answer", "prediction", "output", "caption")
QUESTION_MARKS = ("?", "？", "؟")
TEXT = "text"
"""The answer in POPE's and LLaVA's answers, the question in their questions: the latter where there is
another answer beside it."""


@dataclass(frozen=True)
class Record:
    """One record of a file, which knows where it stands."""

    fields: dict[str, Any]
    where: str

    def get(self, *names: str) -> Any:
        """The first of the fields that is there and not null, else None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def name_of(self, *names: str) -> str:
        """Which of the fields :meth:`get` gives; the first if none is there."""
        return next((name for name in names if self.fields.get(name) is not None), names[0])

    def text(self, *names: str) -> str:
        """The first of the fields that is there.

        Raises:
            UserError: None is, or it is no text.
        """
        value = self.get(*names)
        if not isinstance(value, str):
            named = " or ".join(map(repr, names))
            raise UserError(
                f"{self.where}: {named} should be a text, but is {short(value)}. Mend the record, or leave "
                "it out."
            )
        return value

    def text_if_any(self, *names: str) -> str | None:
        """As :meth:`text`; None if there is none."""
        return None if self.get(*names) is None else self.text(*names)

    def answer(self) -> str:
        """The answer, whatever the file calls it.

        Raises:
            UserError: There is none, it is no text, or the record has several that differ, such as the right
                one beside the model's; or a text alone that is a question, as in files of questions.
        """
        given = [name for name in ANSWER_NAMES if self.fields.get(name) is not None]
        answer = self.text(*(given or (ANSWER_NAMES[0], TEXT)))
        if not given and self.question() is None and answer.rstrip().endswith(QUESTION_MARKS):
            self.refuse_question()
        for name in given:
            if self.fields[name] != answer:
                raise UserError(
                    f"{self.where}: {given[0]!r} and {name!r} differ. Leave in the file only the one "
                    "that the model said."
                )
        return answer

    def refuse_question(self) -> NoReturn:
        """Says that the record is of a file of questions.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.where}: its text is a question. Give the file of the answers, or call the answer "
            "'answer'."
        )

    def question(self) -> str | None:
        """What was asked, None if the record doesn't say."""
        has_answer = self.get(*ANSWER_NAMES) is not None
        return self.text_if_any(*QUESTION_NAMES, *((TEXT,) if has_answer else ()))

    def identifier_if_any(self, *names: str) -> str | None:
        """As :meth:`identifier`; None if there is none."""
        return None if self.get(*names) is None else self.identifier(*names)

    def identifier(self, *names: str) -> str:
        """A text or whole number, as text; whole numbers are the same however they are written.

        Raises:
            UserError: There is none, or it is something else.
        """
        value = self.get(*names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return plain_number(str(value).strip())
        raise UserError(
            f"{self.where}: {self.name_of(*names)!r} should be a text or a whole number, but is "
            f"{short(value)}. Mend the record, or leave it out."
        )

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """A field with one of the allowed texts, in small letters.

        Raises:
            UserError: It has none of them.
        """
        value = self.text(name).strip().lower()
        if value not in allowed:
            raise UserError(
                f"{self.where}: {name!r} is {short(value)}. It should be one of {', '.join(allowed)}."
            )
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts.

        Raises:
            UserError: It is something else.
        """
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise UserError(
                f"{self.where}: {name!r} should be a list of texts, but is {short(value)}. Mend the "
                "record, or leave it out."
            )
        return value


def as_records(entries: Any, name: str) -> list[Record]:
    """The entries of a published file as records.

    Args:
        entries: JSON objects, as the catalog loads them; or records, as :func:`read_records` does.
        name: What the file holds, for messages.

    Raises:
        UserError: They are something else.
    """
    if isinstance(entries, list) and all(isinstance(entry, Record) for entry in entries):
        return entries
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{name}: the file is no list of JSON objects. Give the published file.")
    return [
        Record(entry, f"{name}, record {number} (from 1)") for number, entry in enumerate(entries, start=1)
    ]


def answers_alone(records: Sequence[Record], by_kind: bool = False) -> pd.DataFrame:
    """What answers say about themselves, where there are no published files.

    Args:
        by_kind: Ids are of each kind anew, as in POPE's splits; item_id is then KIND/ID.

    Returns:
        item_id (without one the position, from 0), image_id, kind and label (None if they say nothing),
        answer.

    Raises:
        UserError: An item_id comes twice; names the line.
    """
    rows: dict[str, tuple] = {}
    for position, record in enumerate(records):
        kind = record.text_if_any(*KIND_NAMES)
        item_id = record.identifier_if_any(*ITEM_NAMES) or str(position)
        if by_kind and kind is not None:
            item_id = f"{kind}/{item_id}"
        if item_id in rows:
            raise UserError(f"{record.where}: item {item_id!r} was there before. Leave one of the two out.")
        label = record.choice("label", YES_NO) if record.get("label") is not None else None
        image_id = record.identifier_if_any(*IMAGE_NAMES)
        rows[item_id] = (item_id, image_id, kind, label, record.answer())
    columns = ["item_id", "image_id", "kind", "label", "answer"]
    return pd.DataFrame(list(rows.values()), columns=columns, dtype=object)


def plain_number(text: str) -> str:
    """A whole number without leading zeros and zeros behind a point, "0042" and "42.0" being 42.

    Any other text stays as it is.
    """
    number = re.fullmatch(r"0*([0-9]+)(\.0+)?", text)
    return number[1] if number else text


def image_name(name: str) -> str:
    """The name of an image without folders, address, query and suffix: "https://a/b/c_o.jpg?x=1" is c_o."""
    last = re.split(r"[/\\]", re.split(r"[?#]", name)[0])[-1]
    return re.sub(r"\.[A-Za-z]{2,5}$", "", last)


def image_number(name: str) -> str:
    """The number that an image's name ends with: "COCO_val2014_000000310196.jpg" is 310196.

    A name without one, or with one of more than 18 digits, which no table holds, is as :func:`image_name`
    has it.
    """
    last = image_name(name)
    digits = re.search(r"(?<![0-9])[0-9]{1,18}$", last)
    return plain_number(digits[0]) if digits else last


def short(value: Any) -> str:
    """A value as messages show it."""
    return "missing" if value is None else shortened(repr(value), 60)
