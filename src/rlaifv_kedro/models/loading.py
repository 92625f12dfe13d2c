"""Loading a model from a folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel


def load_model(path: str | Path, *, dtype: str = "float32", device: str = "auto", batch_size: int = 32) -> "TransformersModel":
    """Load a policy or labeler; LoRA adapters are merged into the checkpoint they name.

    Args:
        path: Folder of a Hugging Face checkpoint with its processor.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` takes a GPU if there is one.

    Raises:
        UserError: There is no such device; the folder is no checkpoint, or a file of it is missing or damaged.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from rlaifv_kedro.models.transformers_backend import TransformersModel

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device=cuda, but torch sees no GPU here. Choose cpu or auto, or install the torch of your CUDA version.")
    folder = Path(path)
    adapter = folder / "adapter_config.json"
    weights = _base_of(adapter) if adapter.is_file() else folder
    if not (weights / "config.json").is_file():
        raise UserError(f"{weights} is no checkpoint: it has no config.json. Give the folder that save_pretrained wrote.")
    try:
        module, loaded = AutoModelForImageTextToText.from_pretrained(
            weights, dtype=getattr(torch, dtype), attn_implementation="sdpa", output_loading_info=True
        )
        if loaded["missing_keys"]:  # transformers only warns, and fills them with random numbers
            raise ValueError(f"the weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
        if adapter.is_file():
            from peft import PeftModel

            module = PeftModel.from_pretrained(module, folder).merge_and_unload()
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: can't load the checkpoint: {(str(error).strip() or repr(error)).splitlines()[0]}") from error
    return TransformersModel(module.to(chosen), processor, str(folder), batch_size)


def _base_of(adapter: Path) -> Path:
    """The checkpoint that LoRA adapters belong to."""
    try:
        return Path(json.loads(adapter.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{adapter} doesn't name the checkpoint that the adapters belong to (base_model_name_or_path).") from error
