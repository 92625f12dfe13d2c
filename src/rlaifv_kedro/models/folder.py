"""What a checkpoint's folder is: a whole model or LoRA adapters, of which family, and what is wrong with it.

Nothing is loaded; of the weights only the headers are read, by safetensors. The module imports neither torch
nor transformers, and of this project only what lies at the bottom (``doors``, ``errors``, ``files``,
``formats``): datasets and preflight ask it, too, so it counts as low as these (tests/test_layers.py).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rlaifv_kedro.doors import OutsideError, path_inside
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.models.files_of_checkpoint import (
    FLOATS,
    Problem,
    Weights,
    problems_of_small_files,
    read_config,
    read_object,
    weights_in_files,
)
from rlaifv_kedro.models.hub import folder_of

Read = TypeVar("Read")

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
"""What is said about a checkpoint; it may be completed later, and is not what the checkpoint is."""
SAVED = "saved.json"
"""The proof that a checkpoint is what its training wrote (:mod:`rlaifv_kedro.training.resume`)."""
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
            UserError: It is missing, holds no JSON object, or token ids that are none.
        """
        return _or_user_error(read_config, self.path / CONFIG)

    @property
    def family(self) -> str | None:
        """``llava_original``, or ``model_type`` of the config; None if there is neither."""
        kind = self.config.get("model_type")
        if is_llava_original(self.config):
            return LLAVA_ORIGINAL
        return kind if isinstance(kind, str) else None

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
            UserError: The adapters don't name it, or it isn't there and can't be fetched; it has no
                ``config.json``.
        """
        if not self.is_adapter:
            return self.with_config("Give the folder that save_pretrained wrote.")
        remedy = (
            f"The adapters in {shown(self.path)} belong to it. If it lies elsewhere, set "
            f"base_model_name_or_path in their {ADAPTER_CONFIG}, or merge them: rlaifv merge --adapter "
            f"{shown(self.path)} --base FOLDER --out FOLDER."
        )
        try:
            base = CheckpointFolder(folder_of(self.base))
        except UserError as error:
            raise UserError(f"{error.message} {remedy}") from error
        return base.with_config(remedy)

    def with_config(self, remedy: str) -> "CheckpointFolder":
        """The folder itself, if it is a checkpoint.

        Raises:
            UserError: It has no ``config.json``; ends with the remedy.
        """
        if not self.has_any((CONFIG,)):
            raise UserError(f"{self.path} is no checkpoint: it has no {CONFIG}. {remedy}")
        return self

    @cached_property
    def weights(self) -> Weights:
        """What the files with the weights hold."""
        wanted = ADAPTER_WEIGHTS if self.is_adapter else WEIGHTS
        first = next((name for name in wanted if self.has_any((name,))), None)
        if first is None:
            owner = "the adapters have" if self.is_adapter else "the folder holds"
            return Weights(problems=(Problem(f"{owner} no weights", self.path / wanted[0]),))
        if not first.endswith(".json"):
            return self._read([first], None, {})
        try:
            place = read_object(self.path / first).get("weight_map")
        except ValueError as error:
            return Weights(problems=(Problem(str(error), self.path / first),))
        if not isinstance(place, dict) or not place:
            return Weights(problems=(Problem(f"{first} names no weights", self.path / first),))
        try:
            for name in place.values():
                path_inside(self.path, name, own=True)  # the hub's cache is of links
        except OutsideError:
            return Weights(
                problems=(Problem(f"{first} names files that can't be its own", self.path / first),)
            )
        return self._read(sorted(set(place.values())), first, place)

    def _read(self, files: list[str], index: str | None, place: Mapping[str, str]) -> Weights:
        stored = 4 if self._dtype_of_config() == "float32" else 2
        return weights_in_files(self.path, files, index, place, stored)

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
        known = [(count, FLOATS[name]) for name, count in counts.items() if name in FLOATS]
        if known:
            return max(known)[1]
        said = self._dtype_of_config()
        return said if said in FLOATS.values() else "float32"

    def problems(self) -> list[Problem]:
        """What is wrong with the files; empty if they are whole.

        Whether there are a tokenizer and a processor is another question: a policy can be stored without.
        """
        described, read = (ADAPTER_CONFIG, _base_of) if self.is_adapter else (CONFIG, read_object)
        found = []
        try:
            read(self.path / described)
        except ValueError as error:
            found.append(Problem(str(error), self.path / described))
        found += [*self.weights.problems, *problems_of_small_files(self.path)]
        return found or self._packed()

    def _packed(self) -> list[Problem]:
        """Weights that are no ordinary numbers, and of which the config doesn't say how they are packed."""
        if self.is_adapter or "quantization_config" in self.config:
            return []
        odd = sorted(
            name
            for name, tensor in self.weights.tensors.items()
            if tensor.dtype not in FLOATS and name.endswith("weight")
        )
        if not odd:
            return []
        dtype = self.weights.tensors[odd[0]].dtype
        return [
            Problem(f"{odd[0]} is stored as {dtype}, and config.json doesn't say how to read that", self.path)
        ]

    def refuse_damaged(self, remedy: str) -> None:
        """Stop if the config or the weights are missing or damaged.

        Args:
            remedy: What to do then.

        Raises:
            UserError: Names the first problem and its file.
        """
        _refuse_first(self.problems(), remedy)

    def refuse_damaged_weights(self, remedy: str) -> None:
        """As :meth:`refuse_damaged`, for adapters whose config needn't name the checkpoint they belong to."""
        _refuse_first(self.weights.problems, remedy)


def _refuse_first(problems: Sequence[Problem], remedy: str) -> None:
    if problems:
        raise UserError(f"{shown(problems[0].where.parent)}: {problems[0].what}. {remedy}")


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


def is_llava_original(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a LLaVA in its original layout.

    OmniLMM's own has ``mm_vision_tower``, too.
    """
    named = config.get("architectures")
    architectures = [str(name) for name in named] if isinstance(named, list) else []
    if config.get("model_type") == "omnilmm" or any(name.startswith("OmniLMM") for name in architectures):
        return False
    return architectures == ["LlavaLlamaForCausalLM"] or "mm_vision_tower" in config
