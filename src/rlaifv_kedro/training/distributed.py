"""Which engine spreads a training over processes: what was asked for, and what really runs.

``accelerate launch --cpu`` and Trainer's FSDP flag on a CPU end with exit status 0 and do nothing of the
kind, silently. So nothing is believed: the wrapped model and the process group are asked.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_json
from rlaifv_kedro.formats import first_line

if TYPE_CHECKING:
    from transformers import Trainer

    from rlaifv_kedro.params import TrainingParams


_TRAINING_SAYS = {
    "optimizer": "training.learning_rate, weight_decay and adam_beta2 say it",
    "scheduler": "training.warmup_ratio and epochs say it",
    "amp": "compute.dtype says it",
    "bfloat16": "it is called bf16 now",
}
"""Sections that would take the place of what the parameters say, and why they are refused."""


def deepspeed_config(params: "TrainingParams", dtype: str | None = None) -> dict[str, Any] | None:
    """The DeepSpeed configuration that the parameters name.

    What the parameters decide and the file leaves out is ``auto``: without it DeepSpeed would not clip
    gradients, or compute in float32.

    Args:
        dtype: In which training computes, to compare the file with.

    Raises:
        UserError: The file is missing or no JSON object, sets no ZeRO stage, or has checkpoints without
            weights; it contradicts the parameters.
    """
    if params.deepspeed is None:
        return None
    path = Path(params.deepspeed)
    remedy = (
        "Give a JSON file with zero_optimization.stage, such as conf/deepspeed/zero2.json or "
        "conf/deepspeed/zero3.json."
    )
    try:
        config = read_json(path, remedy)
        stage = config["zero_optimization"]["stage"]
    except UserError as error:
        raise UserError(f"training.deepspeed={path} can't be used. {error.message}") from error
    except (LookupError, TypeError) as error:
        raise UserError(
            f"training.deepspeed={path} can't be used: it has no zero_optimization.stage. {remedy}"
        ) from error
    if type(stage) is not int or stage not in (1, 2, 3):
        raise UserError(
            f"training.deepspeed={path}: zero_optimization.stage is {stage!r}. Give 1, 2 or 3, or leave "
            "training.deepspeed out."
        )
    if (
        stage == 3
        and config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save") is not True
    ):
        raise UserError(
            f"training.deepspeed={path}: checkpoints would hold no weights. Set "
            "zero_optimization.stage3_gather_16bit_weights_on_model_save to true."
        )
    for section in _TRAINING_SAYS.keys() & config.keys():
        raise UserError(
            f"training.deepspeed={path}: the section {section} would take the place of the run's parameters. "
            f"Remove it: {_TRAINING_SAYS[section]}."
        )
    config.setdefault("zero_force_ds_cpu_optimizer", False)  # or offloading refuses PyTorch's AdamW
    _fill(config, path, params, dtype)
    return config


def _fill(config: dict[str, Any], path: Path, params: "TrainingParams", dtype: str | None) -> None:
    """Fill in what the parameters decide, and refuse what contradicts them."""
    decided = {
        "train_batch_size": ("training.batch_size", params.batch_size),
        "train_micro_batch_size_per_gpu": ("training.micro_batch_size", params.micro_batch()),
        "gradient_accumulation_steps": ("training.batch_size and micro_batch_size", params.accumulation()),
        "gradient_clipping": ("training.max_grad_norm", params.max_grad_norm),
    }
    for key, (parameter, value) in decided.items():
        if config.setdefault(key, "auto") not in ("auto", value):
            raise UserError(_contradiction(path, key, config[key], parameter, value))
    for key, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        section = config.setdefault(key, {})
        if not isinstance(section, dict):
            raise UserError(f'training.deepspeed={path}: {key} is {section!r}. Write {{"enabled": "auto"}}.')
        value = section.setdefault("enabled", "auto")
        if value != "auto" and dtype is not None and value is not (dtype == name):
            raise UserError(_contradiction(path, f"{key}.enabled", value, "compute.dtype", dtype))


def _contradiction(path: Path, key: str, found: Any, parameter: str, value: Any) -> str:
    return (
        f"training.deepspeed={path}: {key} is {json.dumps(found)}, but by {parameter} it is {value}. Write "
        '"auto".'
    )


def problem_for_deepspeed(config: Mapping[str, Any]) -> str | None:
    """What DeepSpeed's own check says of the section ``zero_optimization``; None if it can be used."""
    from pydantic import ValidationError

    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    except Exception as error:  # whatever its search for compilers and CUDA raises
        return f"deepspeed can't be imported: {first_line(error)}"
    given = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    try:
        DeepSpeedZeroConfig(**given)
    except ValidationError as error:
        listed = (f"zero_optimization.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return "; ".join(listed)
    except (TypeError, ValueError, AssertionError) as error:
        return f"zero_optimization: {first_line(error)}"
    return None


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


def compile_extension(folder: Path | None = None) -> None:
    """Compiles what DeepSpeed's processes on a CPU talk through, one process of a host at a time.

    torch marks a folder in which it compiles with a file, and waits for ever for one that a killed process
    has left. So this project's extensions have a folder of their own, and whoever has its lock, which the
    system takes from a process that ends, knows that a mark there is left over.

    Args:
        folder: Of the extensions; else one below ``~/.cache/rlaifv_kedro``, by torch's version.
    """
    import torch
    from deepspeed.accelerator import get_accelerator
    from deepspeed.comm.torch import build_shm_op
    from filelock import FileLock

    if get_accelerator().device_name() != "cpu":
        return
    folder = folder or Path.home() / f".cache/rlaifv_kedro/torch_extensions/{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with FileLock(folder / ".lock"):
        for mark in folder.glob("*/lock"):
            mark.unlink()
        build_shm_op()
