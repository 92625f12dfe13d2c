"""``--params NAME=VALUE,NAME=VALUE`` as a person types it: how it is read, and written to be read again.

What a value means depends on the parameter. Where the parameter is text, the value is the text that was
typed: ``4.1``, ``on``, ``12:30:45``, ``#3`` and ``{question} Yes?`` need no quotes. Elsewhere the value is
YAML. Everywhere ``null`` unsets the parameter, and text in quotes is what stands between them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params.run import Parameters

_OPENING, _CLOSING, _QUOTES, _BEFORE_VALUES = "[{(", "]})", "'\"", "=[{(,:"
_PART_OF_A_NAME = re.compile(r"[^\s.=,:'\"\[\]{}()]+")
_PLAIN_ITEM = re.compile(r"[\w./-]+")


def read(
    texts: Iterable[str], root: type[BaseModel] = Parameters, option: str = "--params"
) -> dict[str, Any]:
    """Reads parameters into nested dicts: ``training.beta=0.5`` becomes ``{"training": {"beta": 0.5}}``.

    A value that isn't of the parameter's type stays the text that was typed, so that the error which follows
    shows that text.

    Args:
        texts: What was typed, one text for each time that the option was given. The last value of a parameter
            counts.
        root: The model that knows the parameters' types. A parameter that it doesn't know is read as YAML.
        option: What the errors call the option.

    Raises:
        UserError: An item has no ``=``, no name or no value, a bracket or a quote isn't closed, or what
            should be YAML isn't.
    """
    try:
        return reduce(_merged, (_read_item(item, root) for text in texts for item in split_items(text)), {})
    except UserError as error:
        raise UserError(f"{option} {error.message}") from error


def write(parameters: Mapping[str, Any], root: type[BaseModel] = Parameters) -> str:
    """Writes nested parameters as one text, which :func:`read` reads again."""
    return ",".join(
        f"{'.'.join(path)}={_written(value, types_at(path, root))}" for path, value in _leaves(parameters)
    )


def split_items(text: str) -> list[str]:
    """Splits a text at its commas; commas within brackets or quotes separate nothing.

    Raises:
        UserError: A bracket or a quote that isn't closed has commas behind it.
    """
    items, start, depth, quote, before, escaped = [], 0, 0, "", "", False
    for i, character in enumerate(text):
        if quote:
            if character == quote and not escaped:
                quote = ""
            escaped = quote == '"' and character == "\\" and not escaped
        elif character in _QUOTES and (before in _BEFORE_VALUES or text[i - 1 : i] == character == "'"):
            quote = character  # neither the apostrophe of "it's", nor the end of "it''s"
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
        before = before if character.isspace() else character
    rest = text[start:].strip()
    if "," in rest and (quote or depth):
        raise UserError(
            f"{rest}: a {'quote' if quote else 'bracket'} isn't closed. Close it, or put the text in quotes."
        )
    return [item for item in (item.strip() for item in [*items, rest]) if item]


def types_at(path: Iterable[str], root: type[BaseModel]) -> list[Any]:
    """Lists the types that a parameter may have, such as ``[str, NoneType]``; none for an unknown one."""
    types: list[Any] = [root]
    for name in path:
        types = [found for holder in types for found in _types_in(holder, name)]
    return types


def _types_in(holder: Any, name: str) -> list[Any]:
    """The types of a model's field, or of a dict's values."""
    if isinstance(holder, type) and issubclass(holder, BaseModel):
        return _alternatives(holder.model_fields[name].annotation) if name in holder.model_fields else []
    return _alternatives(get_args(holder)[1]) if get_origin(holder) is dict else []


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, and the types of a Literal's values."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [found for part in get_args(annotation) for found in _alternatives(part)]
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is Literal:
        return list({type(value) for value in get_args(annotation)})
    return [annotation]


def _items_of(types: Sequence[Any]) -> list[Any]:
    """The types of a list's items, where one of these types is a list."""
    lists = (kind for kind in types if get_origin(kind) is list)
    return list(chain.from_iterable(_alternatives(get_args(kind)[0]) for kind in lists))


def _read_item(item: str, root: type[BaseModel]) -> dict[str, Any]:
    """The one parameter of ``NAME=VALUE``, nested."""
    name, equals, text = (part.strip() for part in item.partition("="))
    path = name.split(".")
    if not equals or not all(path):
        raise UserError(
            f"{item}: this is not NAME=VALUE. Put a list in brackets (NAME=[A,B]), and text with "
            'commas in quotes (NAME="A, B").'
        )
    if not text:
        raise UserError(
            f'{item}: there is no value. Write {name}=null to unset it, {name}="" for empty text.'
        )
    try:
        value = _value(text, types_at(path, root))
    except (OmegaConfBaseException, YAMLError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(
            f"{item}: the value cannot be read as YAML ({problem}). If it is text, put it in "
            f"quotes: {name}={json.dumps(text, ensure_ascii=False)}"
        ) from error
    return reduce(lambda inner, key: {key: inner}, reversed(path), value)


def _merged(old: Any, new: Any) -> Any:
    """Both dicts as one; elsewhere the new value."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old[key], value) if key in old else value for key, value in new.items()}}


def _value(text: str, types: Sequence[Any]) -> Any:
    """What was typed, as a value of one of these types where it is one.

    Raises:
        OmegaConfBaseException, YAMLError: It should be YAML and isn't.
    """
    items = _items_of(types)
    if text == "null":
        return None
    if items and text.startswith("[") and text.endswith("]"):
        return [_value(item, items) for item in split_items(text[1:-1])]
    if str in types:
        return _word(text) if {bool, int, float} & set(types) else _text(text)
    value = _yaml(text)
    return value if _fits(value, types) else text


def _text(text: str) -> str:
    """What stands between the quotes around a text, or the text as typed."""
    inner = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in inner.replace("''", ""):
        return inner.replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:  # such as the backslashes of "C:\models"
            return text if '"' in inner else inner
    return text


def _word(text: str) -> Any:
    """A number, true or false as JSON writes them; any other text is text."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return _text(text)


def _yaml(text: str) -> Any:
    """YAML as Kedro's configuration files are read: 5e-7 is a number, and a date is text."""
    try:
        return json.loads(text, parse_constant=str)  # all JSON, of which YAML refuses some characters
    except ValueError:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]


def _fits(value: Any, types: Sequence[Any]) -> bool:
    """Whether a value can be of one of these types; of an unknown parameter it always can."""
    if isinstance(value, dict):
        known = any(get_origin(kind) is dict or hasattr(kind, "model_fields") for kind in types)
    elif isinstance(value, list):
        known = bool(_items_of(types))
    else:
        known = type(value) in types or (type(value) is int and float in types)
    return known or not types


def _leaves(
    parameters: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of each parameter; a dict whose keys can't be parts of a name is one value."""
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value and all(map(_PART_OF_A_NAME.fullmatch, value)):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _written(value: Any, types: Sequence[Any]) -> str:
    """A value as :func:`_value` reads it: text without quotes where that is enough, the rest as JSON."""
    items = _items_of(types)
    if isinstance(value, list) and items:
        return f"[{','.join(_written_item(item, items) for item in value)}]"
    if isinstance(value, str) and value.isprintable() and _reads_back(value, types):
        return value
    return json.dumps(value, ensure_ascii=False)


def _written_item(value: Any, types: Sequence[Any]) -> str:
    plain = isinstance(value, str) and _PLAIN_ITEM.fullmatch(value) and _reads_back(value, types)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _reads_back(text: str, types: Sequence[Any]) -> bool:
    """Whether a text without quotes, with another parameter behind it, is read as the same text."""
    try:
        alone = split_items(f"a={text},b=1") == [f"a={text}", "b=1"]
        return alone and bool(text) and text == text.strip() and _value(text, types) == text
    except (UserError, OmegaConfBaseException, YAMLError):
        return False
