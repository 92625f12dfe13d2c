"""LoRA adapters merged into the checkpoint they belong to: one ordinary checkpoint, as whatever loads
models expects it.
"""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel

ADAPTER = "adapter_config.json"
CARD = "README.md"
SHARD = "5GB"  # what the models on the hub are cut into; transformers 5 would write 50 GB at once
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def merge_adapters(
    adapter: Path, out: Path, base: Path | None = None, trust_remote_code: bool = False
) -> Path:
    """Write the checkpoint that LoRA adapters make of their base: W + scale B A, in the dtype that the base
    is stored in.

    The sum is computed in float32 and rounded once. What is written loads with
    ``AutoModelForImageTextToText`` and ``AutoProcessor``; a LLaVA has the names of weights that llava-hf
    published, whatever layout the base is in.

    Args:
        adapter: Folder of the adapters, as training writes it.
        out: New folder; it is there whole or not at all.
        base: Where the base lies, if it isn't where the adapters were trained.
        trust_remote_code: Run code that comes with the base.

    Returns:
        ``out``.

    Raises:
        UserError: There are no adapters or no base, a file is damaged, or ``out`` is there already.
    """
    from rlaifv_kedro.models.loading import base_of, load_model

    if not (adapter / ADAPTER).is_file():
        raise UserError(
            f"{adapter} holds no LoRA adapters: it has no {ADAPTER}. Give the folder of a checkpoint that "
            "was trained with adapters."
        )
    if out.exists():
        raise UserError(f"{out} is there already. Give the name of a new folder.")
    whole = base_of(adapter / ADAPTER) if base is None else base
    if not (whole / "config.json").is_file():
        raise UserError(
            f"{whole}, the checkpoint that the adapters of {adapter} belong to, isn't there. Say where it "
            "is: --base FOLDER."
        )
    dtype = stored_dtype(whole)
    if base is None:
        model = load_model(adapter, dtype=dtype, device="cpu", trust_remote_code=trust_remote_code)
    else:
        model = load_model(
            base, adapter=adapter, dtype=dtype, device="cpu", trust_remote_code=trust_remote_code
        )
    unfinished = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_whole(model, unfinished)
    if (adapter / CARD).is_file():
        card = (adapter / CARD).read_text(encoding="utf-8")
        (unfinished / CARD).write_text(
            card.replace("library_name: peft", "library_name: transformers", 1), encoding="utf-8"
        )
    unfinished.rename(out)
    return out


def save_whole(model: "TransformersModel", folder: Path) -> None:
    """Write weights in shards of safetensors, configuration, settings for generation, processor, tokenizer
    and chat template.

    Raises:
        UserError: The model has no tokenizer.
    """
    from transformers import LlavaForConditionalGeneration

    from rlaifv_kedro.models.llava.original import published_names

    _ = model.encoder  # says so if there is no tokenizer
    if isinstance(model.module, LlavaForConditionalGeneration):
        model.module._weight_conversions = published_names(model.module.config)
    model.module.save_pretrained(folder, max_shard_size=SHARD)
    model.processor.save_pretrained(folder)


def stored_dtype(folder: Path) -> str:
    """The dtype that most of a checkpoint's numbers are stored in: of its safetensors, or else what its
    config says; float32 if neither tells.
    """
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="np") as weights:
                for name in weights.keys():  # noqa: SIM118 (a safetensors handle isn't a dict)
                    view = weights.get_slice(name)
                    counts[view.get_dtype()] += math.prod(view.get_shape())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged ({error}). Fetch the checkpoint again.") from error
    known = [(count, _DTYPES[kind]) for kind, count in counts.items() if kind in _DTYPES]
    if known:
        return max(known)[1]
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = str(described.get("dtype") or described.get("torch_dtype")).removeprefix("torch.")
    return said if said in _DTYPES.values() else "float32"
