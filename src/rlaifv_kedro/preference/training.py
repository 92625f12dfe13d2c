"""One DPO training in this process: from pairs and a policy to checkpoints by fractions of an epoch."""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import PreferenceCollator, PreferenceDataset, Truncation
from rlaifv_kedro.preference.trainer import WATCHED, PreferenceTrainer

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel
    from rlaifv_kedro.params import LoraParams, TrainingParams

# Written into a checkpoint after all its other files: a folder without it was cut off by a kill.
SAVED = "saved.json"
# What resuming needs and nobody else. The mark stays: a kill while these are removed must not make a whole checkpoint look cut off.
_RESUME_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


def train(
    model: "TransformersModel",
    policy: Path,
    pairs: PairStore,
    reference: pd.DataFrame,
    folder: Path,
    seed: int,
    params: "TrainingParams",
    dtype: str,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Train, or go on with a training that was cut off.

    Args:
        policy: Folder the model was loaded from; LoRA adapters record it.
        folder: Where checkpoints go, ``checkpoint-<step>`` each.

    Returns:
        Checkpoints in order (path, step, epoch), and the ``training_log`` table.

    Raises:
        UserError: The policy isn't its own reference, or the training collapses.
    """
    steps_an_epoch = math.ceil(len(pairs) / params.batch_size)
    steps = max(1, round(steps_an_epoch * params.epochs))
    micro = min(params.micro_batch_size, params.batch_size)
    if params.batch_size % micro:
        raise UserError(f"training.batch_size={params.batch_size} is not a multiple of training.micro_batch_size={micro}.")
    if dtype == "float16" and model.module.device.type == "cpu":
        raise UserError("compute.dtype=float16 can't be trained on a CPU. Choose float32 or bfloat16, or a GPU.")
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=params.batch_size // micro,
        max_steps=steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(params.warmup_share * steps),
        weight_decay=params.weight_decay,
        adam_beta2=params.adam_beta2,
        max_grad_norm=params.max_grad_norm,
        activation_checkpointing=params.gradient_checkpointing,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=model.module.device.type == "cpu",
        logging_steps=1,  # means over several steps would differ after a resume
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps_an_epoch * params.checkpoint_every)),
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        disable_tqdm=True,
    )
    trainer = PreferenceTrainer(
        beta=params.beta,
        dpo_weight=params.dpo_weight,
        sft_weight=params.sft_weight,
        model=_trainable(model.module, policy, params),
        args=arguments,
        train_dataset=PreferenceDataset(pairs, reference),
        data_collator=PreferenceCollator(model.encoder, Truncation(params.max_length, params.truncation), merge=params.pack == "prompt"),
        processing_class=model.processor,
        callbacks=[_Watch(params.collapse_log_ratio), _Progress(steps)],
    )
    trainer.remove_callback(PrinterCallback)  # its lines are in training_log
    trainer.train(resume_from_checkpoint=_last_saved(folder))
    checkpoints = [
        {"path": path.name, "step": step, "epoch": step / steps_an_epoch}
        for step, path in sorted((int(p.name.rpartition("-")[2]), p) for p in folder.glob("checkpoint-*"))
    ]
    for checkpoint in checkpoints:
        for name in _RESUME_FILES:
            (folder / checkpoint["path"] / name).unlink(missing_ok=True)
    return checkpoints, _training_log(trainer.state.log_history)


def _trainable(module: torch.nn.Module, policy: Path, params: "TrainingParams") -> torch.nn.Module:
    """The module with adapters if asked for, and with what is to stay frozen.

    Weights that learn become float32; autocast computes in the lower dtype. In bfloat16 a step of 5e-7 would be rounded away.
    """
    for name, weight in module.named_parameters():
        weight.requires_grad_(not any(part in name for part in params.freeze))
    if params.lora is not None:
        return _with_adapters(module, policy, params.lora)  # peft makes adapters float32 itself
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return module


def _with_adapters(module: torch.nn.Module, policy: Path, lora: "LoraParams") -> torch.nn.Module:
    """Adapters on the linear layers of the language model. The pattern names it: a bare list of suffixes would hit the vision tower too."""
    from peft import LoraConfig, get_peft_model

    # Where the language model lies: in OmniLMM beside the tower, in MiniCPM-V under "llm", elsewhere under "language_model".
    within = {"omnilmm": r".*\bmodel\.layers", "minicpmv": r".*\bllm\.model"}.get(module.config.model_type, r".*\blanguage_model")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type="CAUSAL_LM",
        target_modules=within + r"\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    )  # fmt: skip
    adapted = get_peft_model(module, config)
    adapted.peft_config["default"].base_model_name_or_path = str(policy.resolve())
    return adapted


def _last_saved(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; what a kill cut off is removed."""
    saved = []
    for path in folder.glob("checkpoint-*"):
        if (path / SAVED).is_file():
            saved.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path)
    return str(max(saved)[1]) if saved else None


def _training_log(history: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["step", "epoch", "loss", "learning_rate", *WATCHED]
    rows = [{name: entry.get(name) for name in columns} for entry in history if "loss" in entry]
    return pd.DataFrame(rows, columns=columns)


class _Watch(TrainerCallback):
    """Marks whole checkpoints, and stops a training that runs away."""

    def __init__(self, collapse_log_ratio: float):
        self.collapse_log_ratio = collapse_log_ratio

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / SAVED).write_text(json.dumps({"step": state.global_step}))
        for older in set(folder.parent.glob("checkpoint-*")) - {folder}:  # only the newest is resumed from; 16 states of a 7B model are 0.9 TB
            for name in _RESUME_FILES:
                (older / name).unlink(missing_ok=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any) -> None:
        ratio, loss = logs.get("log_ratio_rejected", 0.0), logs.get("loss", 0.0)
        if not math.isfinite(loss) or not math.isfinite(ratio):
            raise UserError(f"training collapsed at step {state.global_step}: the loss is {loss}. Lower training.learning_rate.")
        if ratio < self.collapse_log_ratio:
            raise UserError(
                f"training collapsed at step {state.global_step}: the mean log-ratio of the rejected answers is {ratio:.1f}, below "
                f"training.collapse_log_ratio={self.collapse_log_ratio}. The policy is unlearning language, not hallucinations. "
                "Lower training.learning_rate or training.epochs, or raise training.beta."
            )


class _Progress(TrainerCallback):
    def __init__(self, steps: int):
        self.bar = tqdm(total=steps, desc="training", unit="step", delay=2)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()
