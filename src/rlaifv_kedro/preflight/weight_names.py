"""The names of a policy's weights as training will see them; no weights are read."""

from pathlib import Path

from rlaifv_kedro.models.folder import LLAVA_ORIGINAL, CheckpointFolder
from rlaifv_kedro.models.llava.names import TOWER, modern_name
from rlaifv_kedro.preflight.checkpoints import LOADING_ERRORS


def weight_names(folder: Path) -> tuple[list[str], str] | None:
    """The names that a checkpoint's weights have in memory, and its ``model_type``.

    None where they can't be told: a file is missing or damaged, which is said where checkpoints are looked
    at, or code comes with the weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from rlaifv_kedro.models import minicpm_v, omnilmm

    omnilmm.register()
    minicpm_v.register()
    try:
        whole = CheckpointFolder(folder).with_weights()
        if whole.family == LLAVA_ORIGINAL:  # its tower may lie elsewhere
            return [TOWER, *map(modern_name, whole.weights.names)], "llava"
        config = AutoConfig.from_pretrained(whole.path)
        with torch.device("meta"):
            module = AutoModelForImageTextToText.from_config(config)
    except LOADING_ERRORS:
        return None
    return [name for name, _ in module.named_parameters()], config.model_type
