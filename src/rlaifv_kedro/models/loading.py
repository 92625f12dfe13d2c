"""Loading a multimodal model from a folder, whatever layout it is in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from rlaifv_kedro.models.backends.transformers import TransformersModel


_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class ImagesOnly:
    """The processor of an original checkpoint without a tokenizer: its weights and pixels can be looked
    at; it can't be asked anything.
    """

    image_processor: Any
    tokenizer: None = None
    chat_template: None = None


def load_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    batch_size: int = 32,
    max_tokens_per_pack: int | None = None,
    attn_implementation: str = "sdpa",
    device_map: str | None = None,
    adapter: str | Path | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    vision_config: Mapping[str, Any] | None = None,
) -> "TransformersModel":
    """Load a policy or labeler; LoRA adapters are merged into the checkpoint they name.

    The layout is recognised from the files: LLaVA-1.5's original one, OmniLMM, MiniCPM-Llama3-V 2.5, or
    anything that transformers' ``AutoModelForImageTextToText`` knows.

    Args:
        path: Folder of a checkpoint with its processor or tokenizer, of LoRA adapters, or a name on the model
            hub.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` takes a GPU if there is one.
        batch_size, max_tokens_per_pack: See
            :class:`rlaifv_kedro.models.backends.transformers.TransformersModel`.
        device_map: ``auto`` spreads the model over the GPUs, whatever ``device`` says.
        adapter: Folder of LoRA adapters for the checkpoint.
        chat_template: File with one, instead of the checkpoint's.
        trust_remote_code: Run code that comes with the weights.
        vision_config: Values of the vision tower that original layouts take from its hub name.

    Raises:
        UserError: There is no such device; the folder is no checkpoint, or a file of it is missing or
            damaged; its processor needs a package that isn't installed.
    """
    from safetensors import SafetensorError

    from rlaifv_kedro.models.backends.transformers import TransformersModel

    where = str(path)
    chosen = torch_device(device)
    folder = folder_of(path)
    own_adapter = folder if (folder / "adapter_config.json").is_file() else None
    weights = base_of(folder / "adapter_config.json") if own_adapter else folder
    if not (weights / "config.json").is_file():
        raise UserError(
            f"{weights} is no checkpoint: it has no config.json. Give the folder that save_pretrained wrote."
        )
    options = {"attn_implementation": attn_implementation, "device_map": device_map}
    try:
        module, processor = _load(weights, dtype, options, vision_config, trust_remote_code)
        for lora in (own_adapter, None if adapter is None else folder_of(adapter)):
            if lora is not None:
                module = _merged(module, lora)
        if own_adapter is not None and any(
            (own_adapter / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")
        ):
            processor = _auto_processor(own_adapter, trust_remote_code)
        if chat_template is not None:
            processor.chat_template = Path(chat_template).read_text(encoding="utf-8")
    except ImportError as error:  # families with a video part in their processor
        what = first_line(error).partition(". ")[0]
        raise UserError(
            f"{where}: its processor needs a package that isn't installed: {what}. For torchvision: pip "
            "install 'rlaifv_kedro[torchvision]', in the "
            "build that fits your torch."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{where}: can't load the checkpoint: {first_line(error)}") from error
    return TransformersModel(
        module if device_map else module.to(chosen), processor, where, batch_size, max_tokens_per_pack
    )


def folder_of(path: str | Path) -> Path:
    """The folder of a checkpoint; one that is named as on the model hub (``owner/name``) is fetched.

    Raises:
        UserError: There is no such folder, and it can't be fetched.
    """
    folder = Path(path)
    if (
        folder.exists()
        or isinstance(path, Path)
        or str(path).count("/") != 1
        or str(path).startswith((".", "/"))
    ):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(path)))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise UserError(
            f"{path} is no folder here, and can't be fetched from the model hub: {first_line(error)}"
        ) from error


def torch_device(device: str) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` is asked for and there is none.
    """
    import torch

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device=cuda, but torch sees no GPU here. Choose cpu or auto, or install the torch of "
            "your CUDA version."
        )
    return chosen


def base_of(adapter: Path) -> Path:
    """The checkpoint that LoRA adapters belong to, from their ``adapter_config.json``.

    Raises:
        UserError: The file doesn't name one.
    """
    try:
        return folder_of(json.loads(adapter.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{adapter} doesn't name the checkpoint that the adapters belong to (base_model_name_or_path)."
        ) from error


def _load(
    weights: Path, dtype: str, options: dict[str, Any], vision_config: Mapping[str, Any] | None, remote: bool
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """The module and its processor."""
    import torch

    from rlaifv_kedro.models import minicpm_v, omnilmm
    from rlaifv_kedro.models.llava.original import is_llava_original, load_llava_original
    from rlaifv_kedro.models.llava.processor import llava_processor

    described = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    kind = getattr(torch, dtype)
    original, family = is_llava_original(described), described.get("model_type")
    if original:
        module, _ = load_llava_original(weights, dtype=kind, vision_config=vision_config, **options)
    else:
        omnilmm.register()
        minicpm_v.register_minicpm_v()
        module = _auto_model(weights, kind, options, vision_config, remote)
    if not any((weights / name).is_file() for name in _TOKENIZERS) and (
        original or family in ("omnilmm", "minicpmv")
    ):
        return module, _images_only(module, "llava" if original else family)
    processor = llava_processor(weights, module.config) if original else _auto_processor(weights, remote)
    if family == "omnilmm":
        module.config.image_token_id = processor.image_token_id  # the release's config doesn't name it
    return module, processor


def _images_only(module: "PreTrainedModel", family: str) -> "ImagesOnly":
    if family == "llava":
        from rlaifv_kedro.models.llava.processor import llava_images

        return ImagesOnly(llava_images(module.config))
    if family == "omnilmm":
        from rlaifv_kedro.models.omnilmm.processing import omnilmm_images

        return ImagesOnly(omnilmm_images(module.config))
    from rlaifv_kedro.models.minicpm_v.processing import minicpm_images

    return ImagesOnly(minicpm_images(module.config))


def _auto_model(
    weights: Path,
    dtype: "torch.dtype",
    options: dict[str, Any],
    vision_config: Mapping[str, Any] | None,
    remote: bool,
) -> "PreTrainedModel":
    from transformers import AutoModelForImageTextToText

    given = {} if vision_config is None else {"vision_config": dict(vision_config)}
    module, loaded = AutoModelForImageTextToText.from_pretrained(
        weights, dtype=dtype, trust_remote_code=remote, output_loading_info=True, **options, **given
    )
    if loaded["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise ValueError(f"the weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
    return module


def _auto_processor(folder: Path, remote: bool) -> "ProcessorMixin":
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, trust_remote_code=remote)


def _merged(module: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    from transformers import LlavaForConditionalGeneration

    from rlaifv_kedro.models.llava.adapter import apply_original_adapter, is_original_adapter

    if isinstance(module, LlavaForConditionalGeneration) and is_original_adapter(adapter):
        return apply_original_adapter(module, adapter)
    from peft import PeftModel

    return PeftModel.from_pretrained(module, adapter).merge_and_unload()
