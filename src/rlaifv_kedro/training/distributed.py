"""Which engine spreads a training over processes: what was asked for, and what really runs.

``accelerate launch --cpu`` and Trainer's FSDP flag on a CPU end with exit status 0 and do nothing of the
kind, silently. So nothing is believed: the wrapped model and the process group are asked.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from transformers import Trainer

    from rlaifv_kedro.params import TrainingParams


def deepspeed_config(params: "TrainingParams") -> dict[str, Any] | None:
    """The DeepSpeed configuration that the parameters name.

    Raises:
        UserError: The file is missing or no JSON object, sets no ZeRO stage, or has checkpoints without
            weights.
    """
    if params.deepspeed is None:
        return None
    path = Path(params.deepspeed)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        stage = config["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"training.deepspeed={path} can't be used ({type(error).__name__}: {error}). Give a JSON file "
            "with zero_optimization.stage, such as "
            "conf/deepspeed/zero2.json or conf/deepspeed/zero3.json."
        ) from error
    if stage not in (1, 2, 3):
        raise UserError(
            f"training.deepspeed={path}: zero_optimization.stage is {stage!r}. Give 1, 2 or 3, or leave "
            "training.deepspeed out."
        )
    if stage == 3 and not config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"training.deepspeed={path}: checkpoints would hold no weights. Set "
            "zero_optimization.stage3_gather_16bit_weights_on_model_save to true."
        )
    return config


def expected_engine(params: "TrainingParams") -> str:
    """The engine that the parameters ask for: ``none``, ``ddp``, ``zero1``, ``zero2`` or ``zero3``."""
    config = deepspeed_config(params)
    if config is not None:
        return f"zero{config['zero_optimization']['stage']}"
    return "ddp" if params.launch.total() > 1 else "none"


def running_engine(trainer: "Trainer") -> str:
    """The engine that wraps the model, named as in :func:`expected_engine`."""
    import torch

    wrapped = trainer.model_wrapped
    if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
        return "ddp"
    stage = getattr(wrapped, "zero_optimization_stage", None)
    return "none" if stage is None else f"zero{stage()}"


def refuse_other_engine(trainer: "Trainer", expected: str) -> None:
    """Raise UserError if another engine wraps the model than was asked for."""
    found = running_engine(trainer)
    if found != expected:
        raise UserError(
            f"the training was to run under {expected}, but {found} runs. Check that torch, accelerate and "
            "deepspeed fit each other."
        )
