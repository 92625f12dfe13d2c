"""LoRA adapters merged into the checkpoint they belong to.

The result is one ordinary checkpoint, as whatever loads models expects it.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.cards import write_card
from rlaifv_kedro.models.folder import ADAPTER_CONFIG, CARD, CheckpointFolder

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel

SHARD = "5GB"  # what the models on the hub are cut into; transformers 5 would write 50 GB at once


def merge_adapters(
    adapter: Path, out: Path, base: Path | None = None, trust_remote_code: bool = False
) -> Path:
    """Write the checkpoint that LoRA adapters make of their base: W + scale B A.

    It is written in the dtype that the base is stored in.

    The sum is computed in float32 and rounded once. What is written loads with
    ``AutoModelForImageTextToText`` and ``AutoProcessor``, and has the names of weights that the family's
    releases have, whatever layout the base is in.

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
    from rlaifv_kedro.models.loading import Loading, load_model

    folder = CheckpointFolder(adapter)
    if not folder.is_adapter:
        raise UserError(
            f"{adapter} holds no LoRA adapters: it has no {ADAPTER_CONFIG}. Give the folder of a checkpoint "
            "that was trained with adapters."
        )
    if out.exists():
        raise UserError(f"{out} is there already. Give the name of a new folder.")
    if base is None:
        whole = folder.with_weights()
    else:
        whole = CheckpointFolder(base).with_config(f"It is to be what the adapters of {adapter} belong to.")
    loading = Loading(dtype=whole.stored_dtype, device="cpu", trust_remote_code=trust_remote_code)
    model = load_model(adapter, loading) if base is None else load_model(base, loading, adapter=adapter)
    unfinished = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_whole(model, unfinished)
    if (adapter / CARD).is_file():
        card = (adapter / CARD).read_text(encoding="utf-8", errors="replace")
        write_card(unfinished, card.replace("library_name: peft", "library_name: transformers", 1))
    unfinished.rename(out)
    return out


def save_whole(model: "TransformersModel", folder: Path) -> None:
    """Write a model as one ordinary checkpoint.

    Written are weights in shards of safetensors, configuration, settings for generation, processor,
    tokenizer and chat template.

    Raises:
        UserError: The model has no tokenizer.
    """
    _ = model.encoder  # says so if there is no tokenizer
    model.module.save_pretrained(folder, max_shard_size=SHARD)
    model.processor.save_pretrained(folder)
