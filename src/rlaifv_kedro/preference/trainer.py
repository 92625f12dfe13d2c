"""DPO on packed pairs, as a ``transformers.Trainer``: optimiser, schedule, checkpoints and resume are its own."""

from collections import defaultdict
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer

from rlaifv_kedro.branching import branch_log_probs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import PromptSampler
from rlaifv_kedro.preference.loss import PreferenceLoss, preference_loss

WATCHED = ("reward_margin", "reward_accuracy", "log_ratio_chosen", "log_ratio_rejected")


class PreferenceTrainer(Trainer):
    """Trains on batches of :class:`rlaifv_kedro.preference.data.PreferenceCollator`.

    Args:
        beta, dpo_weight, sft_weight: See :func:`rlaifv_kedro.preference.loss.preference_loss`.

    Raises:
        UserError: At the first step of a training from scratch the policy isn't its own reference (the DPO loss isn't ln 2).
    """

    def __init__(self, *, beta: float, dpo_weight: float = 1.0, sft_weight: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.beta, self.dpo_weight, self.sft_weight = beta, dpo_weight, sft_weight
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs, so accumulated batches are averaged
        self._watched: dict[str, list[float]] = defaultdict(list)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> torch.Tensor:
        result = self._pair_loss(model, dict(inputs))
        if self.state.global_step == 0:
            self._check_reference(result)
        for name in WATCHED:
            self._watched[name].append(float(getattr(result, name)))
        return result.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        watched = {name: sum(values) / len(values) for name, values in self._watched.items()}
        self._watched.clear()
        super().log({**logs, **watched}, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Trainer looks for the names that weights have in memory. LLaVA's are written by the names of its release, so it finds none, warns, and goes
        on from the weights of the start. Adapters have one name in both places.
        """
        model = model or self.model
        if not isinstance(model, PreTrainedModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)  # what learns is float32; the copy rounds the rest
        model.load_state_dict(saved.state_dict())

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Pairs in random order, or, if packs are made by prompt, prompts in random order with their pairs."""
        if not self.data_collator.merge:
            return super()._get_train_sampler(train_dataset)
        return PromptSampler(self.train_dataset.pairs.prompts, self.args.data_seed)

    def _pair_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> PreferenceLoss:
        scored = branch_log_probs(model, inputs["packed"], **inputs["images"])
        chosen, rejected = inputs["chosen"], inputs["rejected"]
        return preference_loss(
            scored.sums[chosen], scored.sums[rejected], inputs["reference_chosen"], inputs["reference_rejected"], beta=self.beta,
            dpo_weight=self.dpo_weight, sft_weight=self.sft_weight, chosen_tokens=scored.counts[chosen],
        )  # fmt: skip

    def _check_reference(self, result: PreferenceLoss) -> None:
        """At the start every log-ratio is 0, so the DPO loss is ln 2. Single ratios are compared: in the loss they can cancel out."""
        tolerance = 0.05 if not (self.args.bf16 or self.args.fp16) else 2.0  # nats an answer
        if not float(result.largest_log_ratio) <= tolerance:
            raise UserError(
                f"at the first step the policy is not its own reference: an answer's log-prob is {float(result.largest_log_ratio):.2f} nats off, and "
                f"the DPO loss {float(result.dpo):.4f}, should be ln 2 = 0.6931. The reference log-probs were computed from another policy, template "
                "or dtype; compute them again: kedro run --pipelines training."
            )
