"""One DPO training, or one process of it: from pairs and a policy to checkpoints."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from transformers import PrinterCallback, TrainerState, TrainingArguments, set_seed

from rlaifv_kedro import tracking
from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import PreferenceCollator, PreferenceDataset, Truncation
from rlaifv_kedro.preference.loss import Objective
from rlaifv_kedro.preference.weights import Reduction
from rlaifv_kedro.training.callbacks import (
    MarkCheckpoints,
    ReportProgress,
    StopAtCollapse,
    loggers,
    services_of,
)
from rlaifv_kedro.training.distributed import deepspeed_config, expected_engine, running_engine
from rlaifv_kedro.training.learning import Learning
from rlaifv_kedro.training.numerics import learns, raise_to_float32
from rlaifv_kedro.training.resume import checkpoint_of, drop_resume_files
from rlaifv_kedro.training.trainer import WATCHED, PreferenceTrainer
from rlaifv_kedro.transformers_private import TRAINER_STATE_NAME

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.params import LoraParams, TrainingParams

logger = logging.getLogger(__name__)

_HOURS = 3600


@dataclass(frozen=True)
class Ran:
    """How a training really ran.

    Attributes:
        world_size: Processes that took part.
        engine: ``none`` (one process), ``ddp``, ``zero1`` to ``zero3``.
    """

    world_size: int
    engine: str


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves.

    Attributes:
        checkpoints: In order: ``path`` (name of its folder), ``step``, ``epoch``.
        log: The ``training_log`` table.
    """

    checkpoints: list[dict[str, Any]]
    log: pd.DataFrame
    ran: Ran


@dataclass(frozen=True)
class TrainingJob:
    """How a policy is trained, and where.

    Attributes:
        policy: Folder the model was loaded from; LoRA adapters record it.
        folder: Where checkpoints go, ``checkpoint-<step>`` each.
        seed: The run's.
        dtype: Of the computation: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``; without one, where the model lies.
        logs: Folder for TensorBoard and others; without one, nothing is logged.
        resume: The step whose checkpoint it goes on from, 0 for the start; see
            :func:`rlaifv_kedro.training.resume.resume_point`.
        identity: What the checkpoints depend on; see :class:`rlaifv_kedro.training.resume.Mark`.
    """

    policy: Path
    folder: Path
    seed: int
    params: "TrainingParams"
    dtype: str
    device: str | None = None
    logs: Path | None = None
    resume: int = 0
    identity: str = ""


def train(
    model: "TransformersModel",
    pairs: PairStore,
    reference: pd.DataFrame,
    job: TrainingJob,
    on_step: Callable[[int], None] = lambda step: None,
) -> Ran:
    """Train, or go on with a training that was cut off. In a process group every process calls this.

    Args:
        on_step: Told the number of steps done after each.

    Raises:
        UserError: The policy isn't its own reference, ``freeze`` or ``lora`` doesn't fit it, numbers are not
            finite, the training collapses, another engine runs than was asked for, or processes start from
            different checkpoints.
    """
    trainer = _trainer(model, pairs, reference, job, on_step)
    _refuse_different_starts(job.resume)
    start = str(checkpoint_of(job.folder, job.resume)) if job.resume else None
    try:
        trainer.train(resume_from_checkpoint=start)
    finally:
        tracking.end(services_of(job.params, job.logs))
    return Ran(trainer.args.world_size, running_engine(trainer))


def _refuse_different_starts(own: int) -> None:
    """Raise UserError if a process on another host was told before a resume where to start."""
    if not torch.distributed.is_initialized():
        return
    told: list[int] = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, own)
    if len(set(told)) > 1:
        raise UserError(
            f"the processes of the training would start at different steps: {told}. Those of another host "
            "were started before the run was resumed, or see an older state of the project folder. End them, "
            "and start them again when the log of the first host says so."
        )


def result_of(folder: Path, params: "TrainingParams", pairs: int, ran: Ran) -> TrainingResult:
    """What a training that has ended left in its folder, where what only resuming needs is removed."""
    drop_resume_files(folder)
    steps = params.checkpoint_steps(pairs)
    state = TrainerState.load_from_json(str(checkpoint_of(folder, steps[-1]) / TRAINER_STATE_NAME))
    checkpoints = [
        {"path": checkpoint_of(folder, step).name, "step": step, "epoch": step / params.steps_an_epoch(pairs)}
        for step in steps
    ]
    return TrainingResult(checkpoints, _training_log(state.log_history), ran)


def _trainer(
    model: "TransformersModel",
    pairs: PairStore,
    reference: pd.DataFrame,
    job: TrainingJob,
    on_step: Callable[[int], None],
) -> PreferenceTrainer:
    params = job.params
    device = job.device or model.module.device.type
    arguments = _arguments(job, device, len(pairs))
    set_seed(arguments.seed)  # adapters begin with random numbers, the same in every process
    merge, reduction = params.pack == "prompt", Reduction.of(params)
    callbacks = [
        MarkCheckpoints(job.identity),
        StopAtCollapse(params.collapse_log_ratio),
        ReportProgress(on_step),
        *loggers(params, job.logs),
    ]
    trainer = PreferenceTrainer(
        objective=Objective.of(params),
        policy=job.policy,
        engine=expected_engine(params),
        model=_trainable(model.module, job.policy, params),
        args=arguments,
        train_dataset=PreferenceDataset(pairs, reference),
        data_collator=PreferenceCollator(model.encoder, Truncation.of(params), merge, reduction),
        processing_class=model.processor,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # its lines are in training_log
    return trainer


def _arguments(job: TrainingJob, device: str, pairs: int) -> TrainingArguments:
    params, steps, seed = job.params, job.params.steps(pairs), job.seed % 2**32
    return _Arguments(
        output_dir=str(job.folder),
        per_device_train_batch_size=params.micro_batch(),
        gradient_accumulation_steps=params.accumulation(),
        max_steps=steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(params.warmup_ratio * steps),
        # Fused, a GPU's step needs no second copy of what learns; the CPU's figures are of the other one.
        optim="adamw_torch" if device == "cpu" else "adamw_torch_fused",
        weight_decay=params.weight_decay,
        adam_beta2=params.adam_beta2,
        max_grad_norm=params.max_grad_norm,
        activation_checkpointing=params.gradient_checkpointing,
        bf16=job.dtype == "bfloat16",
        fp16=job.dtype == "float16",
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and params.launch.total() > 1 else None,
        ddp_timeout=2 * _HOURS,  # one process writes a large checkpoint while the others wait
        deepspeed=deepspeed_config(params, job.dtype),
        dataloader_num_workers=params.dataloader_num_workers,
        logging_steps=1,  # means over several steps would differ after a resume
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=params.save_steps(pairs),
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],  # see callbacks.loggers
        run_name=tracking.training_name(job.logs) if job.logs else None,
        project=tracking.PROJECT,  # Trackio's
        disable_tqdm=True,
    )


class _Arguments(TrainingArguments):
    """Arguments of a training that never uses DataParallel."""

    @property
    def n_gpu(self) -> int:
        """One GPU a process.

        Trainer would spread a single process over all GPUs that it sees by DataParallel, which can't scatter
        packs.
        """
        return min(super().n_gpu, 1)


def _trainable(module: torch.nn.Module, policy: Path, params: "TrainingParams") -> torch.nn.Module:
    """The module with adapters if asked for, and with what is to stay frozen.

    Weights that learn become float32; autocast computes in the lower dtype. DeepSpeed keeps such copies
    itself, spread over the processes.
    """
    learning = learns(module, params)
    if params.deepspeed is None:
        raise_to_float32(module, learning.whole)
    for name, weight in module.named_parameters():
        weight.requires_grad_(name in learning.whole)
    return module if params.lora is None else _with_adapters(module, policy, params.lora, learning)


def _with_adapters(
    module: torch.nn.Module, policy: Path, lora: "LoraParams", learning: Learning
) -> torch.nn.Module:
    """Adapters on the linear layers of the language model; projectors learn beside them, as copies.

    The pattern names the layers: a bare list of suffixes would hit the vision tower too.
    """
    from peft import LoraConfig, get_peft_model

    if lora.projector and not learning.projectors:
        logger.info("training.freeze names the projector or a part of it, so that the adapters learn alone")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        task_type="CAUSAL_LM",
        target_modules=learning.adapted,
        modules_to_save=list(learning.projectors) or None,
    )
    adapted = get_peft_model(module, config)  # adapters are float32, whatever the module is
    adapted.peft_config["default"].base_model_name_or_path = str(policy.resolve())
    return adapted


def _training_log(history: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["step", "epoch", "loss", "learning_rate", "grad_norm", *WATCHED]
    rows = [{name: entry.get(name) for name in columns} for entry in history if "loss" in entry]
    return pd.DataFrame(rows, columns=columns)
