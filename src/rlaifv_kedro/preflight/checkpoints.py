"""Is a model's folder whole, and does its processor load? Of the weights only headers are read."""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import billions, first_line
from rlaifv_kedro.models.llava.original import is_llava_original
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.sizes import ModelSize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rlaifv_kedro.params import ModelParams

Shapes = dict[str, tuple[int, ...]]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers looks for, in this order; the first that is there counts."""

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
CLIP = "openai/clip-vit-large-patch14-336"

LLAVA_TOKENS = 576
SLICES = 10  # MiniCPM-V: at most nine, and the whole image
SLICE_PATCHES = 1024  # about 448 x 448 pixels each, 14 x 14 a patch
OTHER_TOKENS = 1300  # Qwen2.5-VL: a megapixel, 28 x 28 pixels a token

LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserError)


@dataclass(frozen=True)
class Role:
    """A model of the run.

    Attributes:
        name: policy, labeler, splitter or question_writer.
        source: Folder, or name on the model hub.
        where: What names it: a catalog entry or a parameter.
        params: How it is loaded.
        fetch: The command that fetches it, if known.
        vision: Whether it is shown images.
    """

    name: str
    source: str
    where: str
    params: "ModelParams"
    fetch: str = ""
    vision: bool = True


def look_at(role: Role) -> tuple[list[Finding], ModelSize | None]:
    """All that can be known of a model without loading its weights.

    Returns:
        One finding that says ok, or one for each thing that is wrong; and the model's size, if its weights
        and config could be read.
    """
    inspection = _Inspection(role)
    inspection.run()
    return inspection.findings, inspection.size


def is_hub_name(source: str) -> bool:
    """Whether the run takes it for a name on the model hub (``folder_of`` in rlaifv_kedro.models.loading)."""
    return not Path(source).exists() and source.count("/") == 1 and not source.startswith((".", "/"))


def safetensors_shapes(path: Path) -> Shapes:
    """The shape of each tensor, from the file's header.

    Raises:
        ValueError: There is no header, or the file is shorter or longer than it says.
    """
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes instead of {expected:,}")
    return {name: tuple(entry["shape"]) for name, entry in tensors.items()}


class _Inspection:
    """One model. ``findings`` and ``size`` are what comes of it."""

    def __init__(self, role: Role):
        self.role = role
        self.findings: list[Finding] = []
        self.size: ModelSize | None = None

    def run(self) -> None:
        folder = self._located(self.role.source)
        weights = None if folder is None else self._with_weights(folder)
        if self.role.params.adapter and (adapter := self._located(self.role.params.adapter)):
            self._check_adapter(adapter)
        template = self.role.params.chat_template
        if template and not Path(template).is_file():
            self._wrong(
                "the chat template is not there",
                template,
                f"Put it there, or unset models.{self.role.name}.chat_template.",
            )
        if weights is not None and (described := self._config(weights)):
            self.size = self._size(weights, described)
        if folder is not None and not self.findings:
            counted = f"{billions(self.size.parameters)} parameters" if self.size else "of unknown size"
            self.findings.append(
                Finding(
                    True, f"{self.role.name}: {counted}, all files there, its processor loads", shown(folder)
                )
            )

    def _wrong(self, what: str, where: str | Path, remedy: str = "") -> None:
        remedy = (
            remedy or self.role.fetch or f"Fetch it as docs/recipes.md says, or change {self.role.where}."
        )
        self.findings.append(Finding(False, f"{self.role.name}: {what}", shown(where), remedy))

    def _located(self, source: str) -> Path | None:
        """The folder; None if it is not on this machine."""
        if not is_hub_name(source) or Path(source).parent.is_dir():
            if Path(source).is_dir():
                return Path(source)
            self._wrong("the folder is not there", source)
            return None
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(source, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):
            if constants.HF_HUB_OFFLINE:
                self._wrong(
                    "it is not in the hub's cache, and HF_HUB_OFFLINE is set", source, f"hf download {source}"
                )
                return None
        what = f"{self.role.name}: it is not on this machine; the run will download it"
        self.findings.append(
            Finding(
                True,
                what,
                source,
                f"To fetch it now: hf download {source}. Its size isn't known here, nor counted below.",
            )
        )
        return None

    def _with_weights(self, folder: Path) -> Path | None:
        """The folder itself, or the checkpoint that the adapters in it belong to."""
        described = folder / "adapter_config.json"
        if not described.is_file() or (folder / "config.json").is_file():
            return folder
        self._check_adapter(folder)
        base = self._json(described).get("base_model_name_or_path")
        if base:
            return self._located(str(base))
        self._wrong(
            "its adapters don't name the checkpoint they belong to",
            described,
            "Write it there, as base_model_name_or_path.",
        )
        return None

    def _check_adapter(self, folder: Path) -> None:
        if not (folder / "adapter_config.json").is_file():
            self._wrong(
                "the adapters have no adapter_config.json", folder, "Give the folder that training wrote."
            )
        if not any((folder / name).is_file() and (folder / name).stat().st_size for name in ADAPTERS):
            self._wrong(
                "the adapters have no weights", folder / ADAPTERS[0], "Give the folder that training wrote."
            )

    def _config(self, folder: Path) -> dict[str, Any]:
        """``config.json``; empty, with a finding, if it can't be used."""
        if (folder / "config.json").is_file():
            return self._json(folder / "config.json")
        self._wrong("config.json is missing", folder / "config.json")
        return {}

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
            problem = "it holds no JSON object"
        except (OSError, ValueError) as error:
            problem = first_line(error)
        self._wrong(f"{path.name} can't be read ({problem})", path)
        return {}

    def _size(self, folder: Path, described: dict[str, Any]) -> ModelSize | None:
        """Checks the weights, the architecture and the processor on the way."""
        names, shapes, parameters = self._weights(folder, described)
        if is_llava_original(described):
            text, tokens, patches = described, LLAVA_TOKENS, LLAVA_TOKENS
            self._check_tokenizer(folder)
            if names and not any(
                "vision_tower." in name for name in names
            ):  # the checkpoint names a CLIP instead
                tower = str(described.get("mm_vision_tower") or CLIP)
                self._located(str(folder / tower) if (folder / tower).is_dir() else tower)
        else:
            config = self._known_config(folder, described.get("model_type"))
            if config is None:
                return None
            if self._check_tokenizer(folder):
                self._check_processor(folder, config)
            text, tokens, patches = (
                config.get_text_config().to_dict(),
                _image_tokens(config),
                _patches(config),
            )
        try:
            heads, hidden, layers, vocabulary = (
                text[n] for n in ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size")
            )
        except KeyError:
            return None  # a language model of another kind, for which the estimates don't hold
        kv_width = (text.get("num_key_value_heads") or heads) * (text.get("head_dim") or hidden // heads)
        return (
            ModelSize(parameters, hidden, layers, kv_width, vocabulary, tokens, shapes, patches)
            if parameters
            else None
        )

    def _weights(self, folder: Path, described: dict[str, Any]) -> tuple[set[str], Shapes, int]:
        """Names of the tensors, their shapes (both empty if the file can't tell without being read whole),
        and how many parameters they are.
        """
        first = next((name for name in WEIGHTS if (folder / name).is_file()), None)
        if first is None:
            self._wrong("the folder holds no weights", folder / WEIGHTS[0])
            return set(), {}, 0
        index = self._json(folder / first).get("weight_map", {}) if first.endswith(".json") else {}
        if first.endswith(".json") and not index:
            self._wrong(f"{first} names no weights", folder / first)
            return set(), {}, 0
        files = sorted(set(index.values())) or [first]
        there = [name for name in files if (folder / name).is_file() and (folder / name).stat().st_size]
        for name in sorted(set(files) - set(there)):
            self._wrong(f"{name}, a part of its weights, is missing or empty", folder / name)
        if first.startswith("pytorch"):
            stored = 4 if described.get("torch_dtype", described.get("dtype")) == "float32" else 2
            return set(index), {}, sum((folder / name).stat().st_size for name in there) // stored
        shapes: Shapes = {}
        for name in there:
            try:
                shapes |= safetensors_shapes(folder / name)
            except ValueError as error:
                self._wrong(f"{name} is damaged: {error}", folder / name)
        return set(shapes), shapes, sum(math.prod(shape) for shape in shapes.values())

    def _known_config(self, folder: Path, kind: str | None) -> "PreTrainedConfig | None":
        """The config, if the architecture is one that the run can load."""
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        )

        from rlaifv_kedro.models import minicpm_v, omnilmm

        omnilmm.register()
        minicpm_v.register_minicpm_v()
        known = {
            *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            "omnilmm",
            "minicpmv",
            *(() if self.role.vision else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        }
        remote = self.role.params.trust_remote_code
        if kind not in known and not remote:
            self._wrong(
                f"nothing here can load its architecture, model_type {kind!r}",
                folder / "config.json",
                "Choose another model; or, if it brings its code, set "
                f"models.{self.role.name}.trust_remote_code.",
            )
            return None
        try:
            return AutoConfig.from_pretrained(folder, trust_remote_code=remote)
        except LOADING_ERRORS as error:
            self._wrong(f"its config.json can't be used: {first_line(error)}", folder / "config.json")
            return None

    def _check_tokenizer(self, folder: Path) -> bool:
        found = any((folder / name).is_file() for name in TOKENIZERS)
        if not found:
            self._wrong(
                "the tokenizer is missing (tokenizer.json or tokenizer.model)", folder / TOKENIZERS[0]
            )
        return found

    def _check_processor(self, folder: Path, config: "PreTrainedConfig") -> None:
        """The processor, or a text LLM's tokenizer, loaded as the run does; and its chat template."""
        from transformers import AutoProcessor, AutoTokenizer

        multimodal = hasattr(config, "vision_config")
        own = config.model_type in ("omnilmm", "minicpmv")  # made from the tokenizer and the config
        if multimodal and not own and not any((folder / name).is_file() for name in PROCESSORS):
            self._wrong(f"the image processor is missing ({' or '.join(PROCESSORS)})", folder / PROCESSORS[0])
            return
        try:
            loaded = (AutoProcessor if multimodal else AutoTokenizer).from_pretrained(
                folder, trust_remote_code=self.role.params.trust_remote_code
            )
        except ImportError as error:
            self._wrong(
                f"its processor needs a package that isn't installed: {first_line(error)}",
                folder,
                "Install it; if it is torchvision, in the build that fits your torch (docs/recipes.md).",
            )
            return
        except LOADING_ERRORS as error:
            self._wrong(f"its processor or tokenizer can't be loaded: {first_line(error)}", folder)
            return
        if not getattr(loaded, "chat_template", None) and not self.role.params.chat_template:
            self._wrong(
                "it has no chat template",
                folder / "chat_template.jinja",
                f"Copy it there, or name a file that holds one: models.{self.role.name}.chat_template.",
            )


def _image_tokens(config: "PreTrainedConfig") -> int:
    """Tokens that stand for an image, at most; 0 for a text LLM."""
    if config.model_type == "omnilmm":
        return config.num_query
    if config.model_type == "minicpmv":
        return SLICES * config.query_num
    return (
        (getattr(config, "image_seq_length", None) or OTHER_TOKENS) if hasattr(config, "vision_config") else 0
    )


def _patches(config: "PreTrainedConfig") -> int:
    """Patches of an image, at most, in its vision tower; 0 if the config doesn't say."""
    if config.model_type == "minicpmv":
        return SLICES * SLICE_PATCHES
    vision = getattr(config, "vision_config", None)
    side, patch = (
        getattr(config, "image_size", None) or getattr(vision, "image_size", None),
        getattr(vision, "patch_size", None),
    )
    if isinstance(side, int) and isinstance(patch, int):
        return (side // patch) ** 2
    return OTHER_TOKENS * getattr(vision, "spatial_merge_size", 1) ** 2 if vision is not None else 0
