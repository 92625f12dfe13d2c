"""The names of a policy's weights as training will see them; no weights are read, and nothing is fetched."""

from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.folder import LLAVA_ORIGINAL, CheckpointFolder
from rlaifv_kedro.models.hub import folder_here
from rlaifv_kedro.models.llava.names import TOWER, modern_name
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.trial import empty_model


def weight_names(folder: Path) -> tuple[list[str], str] | None:
    """The names that a checkpoint's weights have in memory, and its ``model_type``.

    None where they can't be told: a file is missing or damaged, which is said where checkpoints are looked
    at; the base of adapters isn't here; or code comes with the weights.
    """
    from transformers import AutoConfig

    from rlaifv_kedro.models import minicpm_v, omnilmm

    omnilmm.register()
    minicpm_v.register()
    try:
        with checkpoint_errors(folder):
            given = CheckpointFolder(folder)
            base = folder_here(given.base) if given.is_adapter else folder
            if base is None:
                return None
            whole = CheckpointFolder(base)
            if whole.family == LLAVA_ORIGINAL:
                names = whole.weights.names  # none are known of a single .bin; the tower's may lie elsewhere
                return ([TOWER, *map(modern_name, names)], "llava") if names else None
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
            module = empty_model(config)
    except UserError:
        return None
    return [name for name, _ in module.named_parameters()], config.model_type
