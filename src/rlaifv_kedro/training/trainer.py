"""DPO on packed pairs, as a ``transformers.Trainer``.

Optimiser, schedule, checkpoints and resume are Trainer's own.
"""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlaifv_kedro.branching import branch_log_probs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.finite import refuse_not_finite
from rlaifv_kedro.preference.data import PromptSampler
from rlaifv_kedro.preference.loss import Objective, PreferenceLoss, preference_loss
from rlaifv_kedro.preference.objective import reduced
from rlaifv_kedro.training.callbacks import diverged
from rlaifv_kedro.training.distributed import refuse_other_engine

ROUNDING = {"float32": 0.01, "bfloat16": 2 * 2**-3, "float16": 2 * 2**-6}
"""By how many nats a token's log-prob may differ where the same products are added up in another order.

In 16 bits the head rounds each logit, and two neighbours among the numbers from 16 to 32, where large logits
lie, are so far apart; twice that is allowed. In float32 it is the tower's convolution, which GPUs compute
in TF32: a part of float16's rounding.
"""

WATCHED = ("reward_margin", "reward_accuracy", "log_ratio_chosen", "log_ratio_rejected")


class SetEpoch(TrainerCallback):
    """Tells a sampler the epoch.

    Where batches are skipped after a resume, accelerate tells it in one process, but not in one of several.
    """

    def __init__(self, sampler: PromptSampler):
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer."""
        self.sampler.set_epoch(int(state.epoch or 0))


class PreferenceTrainer(Trainer):
    """Trains on batches of :class:`rlaifv_kedro.preference.data.PreferenceCollator`.

    Args:
        objective: What is minimised.
        policy: Folder of the checkpoint that is trained.
        engine: What must spread the training over processes; see :mod:`rlaifv_kedro.training.distributed`.

    Raises:
        UserError: At the first step of a training from scratch the policy isn't its own reference (the DPO
            loss isn't ln 2); a loss is not finite; another engine runs.
    """

    def __init__(self, *, objective: Objective, policy: Path, engine: str = "none", **kwargs: Any):
        super().__init__(**kwargs)
        self.objective, self.policy, self.engine = objective, policy, engine
        # By the pairs of the whole step, however they fall into micro-batches and processes.
        self.loss_is_scaled_for_ga = True
        self._watched = torch.zeros(1 + len(WATCHED), dtype=torch.float64)
        self._checked_engine = False

    @property
    def dtype(self) -> str:
        """In which the forward pass computes."""
        if self.args.bf16:
            return "bfloat16"
        return "float16" if self.args.fp16 else "float32"

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of a micro-batch as Trainer wants it, so that gradients add up to those of the mean."""
        if not self._checked_engine:
            refuse_other_engine(self, self.engine)
            self._checked_engine = True
        result = self._pair_loss(model, dict(inputs))
        self._refuse_not_finite(result)
        if self.state.global_step == 0:
            self._check_reference(result, inputs)
        pairs = len(result.losses)
        means = [float(getattr(result, name)) for name in WATCHED]
        self._watched += torch.tensor([1.0, *means], dtype=torch.float64) * pairs
        if num_items_in_batch is None:
            return result.losses.mean()
        # Times the number of processes, since gradients are averaged over them.
        return result.losses.sum() / num_items_in_batch * self.args.world_size

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log with the means of what was watched since the last time."""
        pairs, *sums = self.accelerator.reduce(self._watched.to(self.args.device)).tolist()
        self._watched.zero_()
        watched = {name: total / pairs for name, total in zip(WATCHED, sums)} if pairs else {}
        super().log({**logs, **watched}, *args, **kwargs)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> torch.Tensor:
        """Pairs of an optimiser step, over its micro-batches and all processes."""
        return self.accelerator.reduce(
            torch.tensor(float(sum(len(batch["chosen"]) for batch in batch_samples)), device=device)
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Put a batch on the device.

        Under DeepSpeed, Trainer would round all numbers to bfloat16: right for pixels, wrong for log-probs of
        -123.4.
        """
        prepared = super()._prepare_inputs(inputs)
        exact = {
            name: value.to(self.args.device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        return {**prepared, **exact}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save without the second copy of tied weights.

        DeepSpeed gathers them as two tensors, so checkpoints would hold the embeddings twice.
        """
        if state_dict is not None:
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", None) or {}
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Load a checkpoint's weights by the names that they have in files.

        Trainer looks for the names that weights have in memory. LLaVA's are written by the names of its
        release, so it finds none, warns, and goes on from the weights of the start. Adapters have one name in
        both places.
        """
        model = model or self.model
        if not isinstance(model, PreTrainedModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # What learns is float32; the copy rounds the rest.
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Pairs in random order; if packs are made by prompt, prompts in random order with their pairs."""
        if not self.data_collator.merge:
            return super()._get_train_sampler(train_dataset)
        sampler = PromptSampler(self.train_dataset.pairs.prompts, self.args.data_seed)
        self.add_callback(SetEpoch(sampler))
        return sampler

    def _pair_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> PreferenceLoss:
        scored = branch_log_probs(model, inputs["packed"], **inputs["images"])
        chosen, rejected, weights = inputs["chosen"], inputs["rejected"], inputs.get("weights")
        lengths = scored.counts[chosen], scored.counts[rejected]
        return preference_loss(
            *reduced(scored, chosen, rejected, weights),
            inputs["reference_chosen"],
            inputs["reference_rejected"],
            self.objective,
            chosen_mean=scored.sums[chosen] / lengths[0],
            lengths=lengths if weights is not None else None,
        )

    def _refuse_not_finite(self, result: PreferenceLoss) -> None:
        """Raise UserError if a pair's loss or log-ratio is no number."""
        if bool(result.losses.isfinite().all() and result.log_ratios.isfinite().all()):
            return
        if self.state.global_step == 0:
            refuse_not_finite(self.model, f"{self.policy}, before the first step", self.dtype)
        raise diverged("the loss", self.state.global_step + 1, Path(self.args.output_dir))

    def _check_reference(self, result: PreferenceLoss, inputs: dict[str, Any]) -> None:
        """Raise UserError if the policy isn't its own reference at the start.

        There every log-ratio is 0, so the DPO loss is ln 2. Single ratios are compared: in the loss they can
        cancel out.
        """
        lengths = [n for of_pack in inputs["packed"].branch_lengths for n in of_pack]
        answers = torch.stack([inputs["chosen"], inputs["rejected"]]).cpu()  # (2, pairs)
        tokens = torch.tensor(lengths, dtype=torch.float64)[answers]
        # Roundings of single tokens add up like a random walk, unless few tokens have nearly all the weight.
        steps = tokens if self.data_collator.reduction.kind == "weighted" else tokens.sqrt()
        off = result.log_ratios.double().cpu().abs()
        excess = off / (ROUNDING[self.dtype] * steps)
        if float(excess.max()) <= 1:
            return
        worst = int(excess.argmax())
        allowed = float((off / excess).flatten()[worst])
        raise UserError(
            "at the first step the policy is not its own reference: the log-prob of an answer of "
            f"{int(tokens.flatten()[worst])} tokens is {float(off.flatten()[worst]):.2f} nats off "
            f"({allowed:.2g} would be {self.dtype}'s rounding), and "
            f"the DPO loss {float(result.dpo):.4f}, should be ln 2 = 0.6931. The reference log-probs "
            "were computed from another policy or template, or in another way; compute them again: kedro run "
            "--pipelines training."
        )
