"""The files of a checkpoint's folder: read as far as their headers go, and what is wrong with them.

Imports of this project only what lies at the bottom, like :mod:`rlaifv_kedro.models.folder`.
"""

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rlaifv_kedro.doors import MOST_OF_A_DOCUMENT, reason_of, regular_bytes
from rlaifv_kedro.files import LFS, LFS_POINTER, is_lfs_pointer, json_value
from rlaifv_kedro.formats import first_line, shortened

FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The dtypes in which weights can be used as they are, by safetensors' names."""

_JSON_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)
_OTHER_FILES = ("tokenizer.model", "chat_template.jinja")
_OLD_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch before 1.6 began its files
_SHARD = re.compile(r"-\d{5}(-of-\d{5}\.(safetensors|bin))$")


class Tensor(NamedTuple):
    """What a file's header says of a tensor.

    ``dtype`` is safetensors' name, such as ``BF16``.
    """

    shape: tuple[int, ...]
    dtype: str


class Problem(NamedTuple):
    """What is wrong with a checkpoint, and the file or folder in which it is."""

    what: str
    where: Path


@dataclass(frozen=True)
class Weights:
    """The files with the weights, as far as they can be read.

    Attributes:
        names: Of the tensors; empty for a single ``.bin``, which must be read whole to know them.
        tensors: By name; empty for ``.bin`` files.
        parameters: How many numbers the weights are; of ``.bin`` files by their size.
        problems: What is missing or damaged.
    """

    names: frozenset[str] = frozenset()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: int = 0
    problems: tuple[Problem, ...] = ()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file.

    Raises:
        ValueError: The file is missing, unreadable or empty, or holds no JSON object; begins with its name.
    """
    try:
        content = regular_bytes(path, MOST_OF_A_DOCUMENT)
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except OSError as error:
        raise ValueError(f"{path.name} can't be read ({reason_of(error)})") from error
    if content.startswith(LFS_POINTER):
        raise ValueError(f"{path.name} is {LFS}")
    try:
        found = json_value(content.decode())
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Shape and dtype of each tensor of a safetensors file, from its header.

    Raises:
        ValueError: The file can't be read, or is shorter or longer than its header says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            return {name: Tensor(tuple(v.get_shape()), v.get_dtype()) for name, v in views.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(first_line(error)) from error


def read_config(path: Path) -> dict[str, Any]:
    """The object in a ``config.json``.

    Raises:
        ValueError: There is none, or its token ids are none.
    """
    config = read_object(path)
    for settings in (config, config.get("text_config")):
        if isinstance(settings, dict):
            _refuse_odd_ids(path.name, settings)
    return config


def problems_of_small_files(folder: Path) -> list[Problem]:
    """What is wrong with the files beside config and weights, of those that are there."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.exists() and not path.is_file() and not path.is_dir():  # a library would wait for a pipe
            found.append(Problem(f"{path.name} is no regular file", path))
    for path in (folder / name for name in _JSON_FILES):
        try:
            if path.is_file():
                settings = read_object(path)
                if path.name == "generation_config.json":
                    _refuse_odd_ids(path.name, settings)
        except ValueError as error:
            found.append(Problem(str(error), path))
    for path in (folder / name for name in _OTHER_FILES):
        if path.is_file() and is_lfs_pointer(path):
            found.append(Problem(f"{path.name} is {LFS}", path))
    return found


def _refuse_odd_ids(name: str, settings: Mapping[str, Any]) -> None:
    """Token ids that end an answer or are never drawn must be some: -1 would be the vocabulary's last token.

    Raises:
        ValueError: They aren't; begins with the file's name.
    """
    ends, suppressed = settings.get("eos_token_id"), settings.get("suppress_tokens")
    values = {
        "eos_token_id": ends if isinstance(ends, list) or ends is None else [ends],
        "suppress_tokens": suppressed,
    }
    for key, ids in values.items():
        if ids is None:
            continue
        if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids):
            raise ValueError(f"{name}: {key} is {shortened(repr(settings[key]), 80)}, which are no token ids")


def weights_in_files(
    folder: Path, files: Sequence[str], index: str | None, place: Mapping[str, str], bytes_a_number: int
) -> Weights:
    """What is in the files of the weights.

    Args:
        index: The file that names the others, if there is one.
        place: Names of tensors and their files, as the index has them.
        bytes_a_number: Of ``.bin`` files.
    """
    paths = [folder / name for name in files]
    problems = [
        Problem(f"{path.name} is missing, but {index} names it", path) for path in paths if not path.is_file()
    ]
    problems += _left_out(folder, files, index)
    tensors: dict[str, Tensor] = {}
    whole = [path for path in paths if path.is_file()]
    for path in list(whole):
        try:
            found = _read_weights(path)
        except ValueError as error:
            problems.append(Problem(str(error), path))
            whole.remove(path)
            continue
        gone = sorted(name for name, file in place.items() if file == path.name and name not in found)
        if found and gone:
            problems.append(Problem(f"{path.name} lacks {gone[0]}, which {index} says is there", path))
        tensors |= found
    if files[0].endswith(".bin"):
        size = sum(path.stat().st_size for path in whole)
        return Weights(frozenset(place), {}, size // bytes_a_number, tuple(problems))
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Weights(frozenset(tensors), tensors, parameters, tuple(problems))


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; of a ``.bin`` none, but whether it is whole.

    Raises:
        ValueError: It is empty, a pointer or damaged; begins with its name.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path.name} is empty")
    if is_lfs_pointer(path):
        raise ValueError(f"{path.name} is {LFS}")
    if path.suffix == ".bin":
        if not zipfile.is_zipfile(path) and not _begins_with(path, _OLD_PICKLE):
            raise ValueError(f"{path.name} is damaged (it is no whole file of torch.save)")
        return {}
    try:
        return read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def _left_out(folder: Path, files: Sequence[str], index: str | None) -> list[Problem]:
    """Shards of the same set that the index doesn't name: their weights would be made up."""
    ends = {match[1] for name in files if (match := _SHARD.search(name))}
    return [
        Problem(f"{path.name} is there, but {index} doesn't name it", folder / str(index))
        for path in sorted(folder.glob("*-of-*"))
        if index and path.name not in files and (match := _SHARD.search(path.name)) and match[1] in ends
    ]


def _begins_with(path: Path, beginning: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(beginning)) == beginning
