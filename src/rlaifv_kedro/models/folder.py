"""What a checkpoint's folder is: a whole model or LoRA adapters, of which family, and what is wrong with it.

Nothing is loaded; of the weights only the headers are read, by safetensors. The module imports neither torch
nor transformers, and of this project only what lies at the bottom (``errors``, ``files``, ``formats``):
datasets and preflight ask it, too, so it counts as low as these (tests/test_layers.py).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.models.hub import folder_of

Read = TypeVar("Read")

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
"""What is said about a checkpoint; it may be completed later, and is not what the checkpoint is."""
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers looks for, in this order; the first that is there counts."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")

LLAVA_ORIGINAL = "llava_original"
"""Family of a LLaVA in the layout of its original release; every other family goes by its ``model_type``."""

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""By safetensors' names."""


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


class CheckpointFolder:
    """A folder with a Hugging Face checkpoint, or with LoRA adapters for one.

    Each file is read once.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def has_any(self, names: tuple[str, ...]) -> bool:
        """Whether one of some files is there."""
        return any((self.path / name).is_file() for name in names)

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds LoRA adapters.

        LLaVA's original code writes a ``config.json`` beside them.
        """
        return self.has_any((ADAPTER_CONFIG,))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            UserError: It is missing, or holds no JSON object.
        """
        return _or_user_error(read_object, self.path / CONFIG)

    @property
    def family(self) -> str | None:
        """``llava_original``, or ``model_type`` of the config; None if there is neither."""
        return LLAVA_ORIGINAL if is_llava_original(self.config) else self.config.get("model_type")

    @cached_property
    def base(self) -> str:
        """Folder or hub name of the checkpoint that the adapters in this folder belong to.

        Raises:
            UserError: Their ``adapter_config.json`` doesn't name one.
        """
        return _or_user_error(_base_of, self.path / ADAPTER_CONFIG)

    def with_weights(self) -> "CheckpointFolder":
        """The folder itself, or the one of the checkpoint that its adapters belong to, fetched if need be.

        Raises:
            UserError: The adapters don't name it, or it can't be fetched; it has no ``config.json``.
        """
        whole = CheckpointFolder(folder_of(self.base)) if self.is_adapter else self
        if not whole.has_any((CONFIG,)):
            raise UserError(
                f"{whole.path} is no checkpoint: it has no {CONFIG}. Give the folder that save_pretrained "
                "wrote."
            )
        return whole

    @cached_property
    def weights(self) -> Weights:
        """What the files with the weights hold."""
        wanted = ADAPTER_WEIGHTS if self.is_adapter else WEIGHTS
        first = next((name for name in wanted if self.has_any((name,))), None)
        if first is None:
            owner = "the adapters have" if self.is_adapter else "the folder holds"
            return Weights(problems=(Problem(f"{owner} no weights", self.path / wanted[0]),))
        if not first.endswith(".json"):
            return self._read(first, [first], frozenset())
        try:
            place = read_object(self.path / first).get("weight_map")
        except ValueError as error:
            return Weights(problems=(Problem(str(error), self.path / first),))
        if not isinstance(place, dict) or not place:
            return Weights(problems=(Problem(f"{first} names no weights", self.path / first),))
        return self._read(first, sorted(set(place.values())), frozenset(place))

    def _read(self, first: str, files: list[str], names: frozenset[str]) -> Weights:
        """What is in the files of the weights.

        Args:
            first: The file that names them, or the only one.
            names: Of the tensors, if an index told them.
        """
        problems = [
            Problem(f"{name} is missing, but {first} names it", self.path / name)
            for name in files
            if not self.has_any((name,))
        ]
        there = [self.path / name for name in files if self.has_any((name,))]
        problems += [Problem(f"{path.name} is empty", path) for path in there if not path.stat().st_size]
        whole = [path for path in there if path.stat().st_size]
        if ".bin" in first:
            size = sum(path.stat().st_size for path in whole)
            stored = 4 if self._dtype_of_config() == "float32" else 2
            return Weights(names, {}, size // stored, tuple(problems))
        tensors: dict[str, Tensor] = {}
        for path in whole:
            try:
                tensors |= read_tensors(path)
            except ValueError as error:
                problems.append(Problem(f"{path.name} is damaged ({error})", path))
        parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
        return Weights(frozenset(tensors), tensors, parameters, tuple(problems))

    def _dtype_of_config(self) -> str:
        try:
            config = read_object(self.path / CONFIG)
        except ValueError:  # told by problems()
            return ""
        return str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")

    @property
    def stored_dtype(self) -> str:
        """The dtype that most of the numbers are stored in.

        The safetensors tell, or else the config; it is float32 if neither does.
        """
        counts: Counter[str] = Counter()
        for tensor in self.weights.tensors.values():
            counts[tensor.dtype] += math.prod(tensor.shape)
        known = [(count, DTYPES[name]) for name, count in counts.items() if name in DTYPES]
        if known:
            return max(known)[1]
        said = self._dtype_of_config()
        return said if said in DTYPES.values() else "float32"

    def problems(self) -> list[Problem]:
        """What is wrong with the config and the weights; empty if they are whole.

        Tokenizer and processor are other questions: a policy can be stored without them.
        """
        described, read = (ADAPTER_CONFIG, _base_of) if self.is_adapter else (CONFIG, read_object)
        try:
            read(self.path / described)
        except ValueError as error:
            return [Problem(str(error), self.path / described), *self.weights.problems]
        return list(self.weights.problems)

    def refuse_damaged(self, remedy: str) -> None:
        """Stop if the config or the weights are missing or damaged.

        Args:
            remedy: What to do then.

        Raises:
            UserError: Names the first problem and its file.
        """
        problems = self.problems()
        if problems:
            raise UserError(f"{shown(problems[0].where.parent)}: {problems[0].what}. {remedy}")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file.

    Raises:
        ValueError: The file is missing, unreadable or empty, or holds no JSON object; begins with its name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except OSError as error:
        raise ValueError(f"{path.name} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _base_of(path: Path) -> str:
    """The checkpoint that an ``adapter_config.json`` names; ValueError if it names none."""
    named = read_object(path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ValueError(
            f"{path.name} doesn't name the checkpoint that the adapters belong to (base_model_name_or_path)"
        )
    return named


def _or_user_error(read: Callable[[Path], Read], path: Path) -> Read:
    """What a file holds; a ValueError becomes a UserError that says where the file is."""
    try:
        return read(path)
    except ValueError as error:
        raise UserError(
            f"{shown(path.parent)}: {error}. Copy it anew from where it was published."
        ) from error


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


def is_llava_original(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a LLaVA in its original layout.

    OmniLMM's own has ``mm_vision_tower``, too.
    """
    architectures = config.get("architectures") or []
    if config.get("model_type") == "omnilmm" or any(name.startswith("OmniLMM") for name in architectures):
        return False
    return list(architectures) == ["LlavaLlamaForCausalLM"] or "mm_vision_tower" in config
