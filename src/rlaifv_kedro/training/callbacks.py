"""What happens beside a training's steps: checkpoints are marked, a collapse stops it, progress is told."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.tracking import prepare
from rlaifv_kedro.training.resume import (
    RESUMABLE,
    checkpoint_of,
    drop_resume_files,
    mark_saved,
    saved_checkpoints,
)

if TYPE_CHECKING:
    from rlaifv_kedro.params import TrainingParams


class MarkCheckpoints(TrainerCallback):
    """Marks checkpoints that are whole, and removes what only resuming needs from older ones.

    Args:
        identity: What the checkpoints depend on; see :class:`rlaifv_kedro.training.resume.Mark`.
    """

    def __init__(self, identity: str):
        self.identity = identity

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer after it has written a checkpoint."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # each process writes a part of what resuming needs
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            mark_saved(checkpoint_of(folder, state.global_step), state.global_step, self.identity)
            drop_resume_files(folder, keep=RESUMABLE)


class StopAtCollapse(TrainerCallback):
    """Stops a training that collapses.

    Args:
        collapse_log_ratio: Lowest mean log-ratio of the rejected answers, in nats an answer.

    Raises:
        UserError: In a step, if the gradient isn't finite or the log-ratio is lower.
    """

    def __init__(self, collapse_log_ratio: float):
        self.collapse_log_ratio = collapse_log_ratio

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Called by Trainer with the figures of a step."""
        ratio = logs.get("log_ratio_rejected", 0.0)
        # In float16 the loss is scaled up until gradients overflow now and then; such a step is left out.
        if not args.fp16 and not math.isfinite(logs.get("grad_norm", 0.0)):
            raise diverged("the gradient's norm", state.global_step, Path(args.output_dir))
        if ratio < self.collapse_log_ratio:
            raise UserError(
                f"training collapsed at step {state.global_step}: the mean log-ratio of the rejected "
                f"answers is {ratio:.1f}, below "
                f"training.collapse_log_ratio={self.collapse_log_ratio}. The policy is unlearning language, "
                "not hallucinations. "
                "Lower training.learning_rate or training.epochs, or raise training.beta."
            )


def diverged(what: str, step: int, folder: Path) -> UserError:
    """The error for a loss or gradient that is no number.

    A checkpoint whose weights are damaged is told apart where training starts
    (:func:`rlaifv_kedro.models.finite.refuse_not_finite`).

    Args:
        folder: Where the training saves its checkpoints.
    """
    saved = saved_checkpoints(folder)
    rest = f"The last whole checkpoint is {shown(saved[-1][1])}." if saved else "No checkpoint was saved."
    return UserError(
        f"training diverged at step {step}: {what} is not finite, and was at the start. Lower "
        "training.learning_rate or training.max_grad_norm, or compute in another dtype (bfloat16 or float32: "
        f"compute.dtype). {rest}"
    )


class ReportProgress(TrainerCallback):
    """Tells a function how many steps are done."""

    def __init__(self, on_step: Callable[[int], None]):
        self.on_step = on_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer."""
        if state.is_world_process_zero:
            self.on_step(state.global_step)


def loggers(params: "TrainingParams", logs: Path | None) -> list[TrainerCallback]:
    """Callbacks that log loss, rewards and learning rate beside the ``training_log`` table.

    Args:
        logs: Folder of TensorBoard's event files; without one nothing is logged.
    """
    services = services_of(params, logs)
    if not services:
        return []
    from transformers import integrations

    prepare(services, logs)
    callbacks = {
        "mlflow": integrations.MLflowCallback,
        "wandb": integrations.WandbCallback,
        "swanlab": integrations.SwanLabCallback,
        "trackio": integrations.TrackioCallback,
    }
    found = [callbacks[name]() for name in services if name in callbacks]
    if "tensorboard" in services:
        from torch.utils.tensorboard import SummaryWriter

        found.append(integrations.TensorBoardCallback(SummaryWriter(str(logs))))
    return found


def services_of(params: "TrainingParams", logs: Path | None) -> list[str]:
    """What this process logs to: one process of a training does."""
    return [] if logs is None or int(os.environ.get("RANK", "0")) > 0 else params.report_to


def write_progress(file: Path) -> Callable[[int], None]:
    """A function that writes the step into a file, where the process that waits for the training reads it."""

    def on_step(step: int) -> None:
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"step": step}))
        unfinished.replace(file)

    return on_step
