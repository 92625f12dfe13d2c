"""Preference pairs to checkpoints."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params.base import Count, Effect, Params, Share

JsonScalar = bool | int | float | str | None


class LoraParams(Params):
    """Low-rank adapters on all linear layers of the language model, and the projector beside them.

    The release has rank 64, alpha 16 and dropout 0.05; it trains the projector whole and writes it to
    ``non_lora_trainables.bin``.
    """

    rank: Annotated[Count, Field(le=8192)] = 64
    alpha: float = Field(16, gt=0, le=1e6)
    dropout: float = Field(0.05, ge=0, lt=1)
    projector: bool = Field(
        True,
        description="train the projector or resampler too, whole (release), unless training.freeze names it",
    )


class LaunchParams(Params):
    """How many processes train together.

    More than one, or DeepSpeed, runs by torchrun as a process of its own (docs/training.md).
    """

    processes: Annotated[Count, Effect.DIVISION] = Field(1, description="on each host; one a GPU")
    hosts: Annotated[Count, Effect.DIVISION] = Field(
        1, description="machines that see the same project folder"
    )
    address: Annotated[str | None, Effect.EXECUTION] = Field(
        None,
        pattern=r"^([^:\s]+|\[[\da-fA-F:.]+\]):\d+$",
        description="host:port where the processes of several hosts meet; the first host's name, a free port",
    )
    prefix: Annotated[list[str], Effect.EXECUTION] = Field(
        [],
        description="command in front of torchrun that starts it on all hosts, e.g. srun --nodes=2 "
        "--ntasks-per-node=1; without one, "
        "the log says what to start on the others",
    )

    def total(self) -> int:
        """Processes on all hosts."""
        return self.processes * self.hosts

    @model_validator(mode="after")
    def _hosts_meet(self) -> "LaunchParams":
        if self.hosts > 1 and self.address is None:
            raise ValueError(
                "several hosts need training.launch.address=host:port, where their processes meet"
            )
        return self


class MixSource(Params):
    """How much of a source of pairs is trained on."""

    weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="how often a row is used on average: 0 leaves the source out, 0.5 takes a random half",
    )
    where: dict[str, JsonScalar | list[JsonScalar]] = Field(
        {},
        description="only rows whose origin_split, JSON text, has one of these values under each key, such "
        "as model or iteration",
    )


class TrainingParams(Params):
    """Preference pairs to checkpoints."""

    mix: dict[str, MixSource] = Field(
        {"preference_pairs": MixSource()},
        description="catalog entries with pairs to train on; preference_pairs is one of them unless its "
        "weight is set to 0",
    )
    max_reject_share: Annotated[Share, Effect.EXECUTION] = Field(
        0.1, description="stop if a larger share of the pairs can't be used"
    )
    gather_chunk_size: Annotated[Count, Effect.DIVISION] = Field(
        256, description="pairs a chunk of training_pairs: held in memory at once, with their images"
    )
    learning_rate: float = Field(5e-7, gt=0, lt=1, description="peak; release: 5e-7 full, 1e-5 LoRA")
    beta: float = Field(
        0.1,
        gt=0,
        le=1e4,
        description="weight of the KL term; raising it keeps the policy nearer to its reference (paper: for "
        "sums; docs/training.md)",
    )
    log_probs: Literal["sum", "mean", "weighted"] = Field(
        "sum",
        description="how an answer's log-probs become one number: summed (paper), a token's mean, or "
        "weighted: a token's mean in which tokens that "
        "chosen and rejected don't share count changed_weight times (RLHF-V's DDPO)",
    )
    changed_weight: float = Field(
        5.0,
        gt=0,
        le=1e4,
        description="weighted: weight of a token that the pair's answers don't share (RLHF-V's gamma)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs taken to be the wrong way round (conservative DPO)"
    )
    dpo_weight: float = Field(
        1.0, ge=0, le=1e4, description="0 leaves supervised fine-tuning on the chosen answers"
    )
    sft_weight: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="weight of the log-prob a token of the chosen answer; not part of the method",
    )
    epochs: float = Field(4, gt=0, le=1e4, description="passes over the pairs (release)")
    batch_size: Count = Field(8, description="pairs an optimiser step (release)")
    micro_batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8,
        description="at most so many pairs a forward pass, in each process; gradients are accumulated up to "
        "batch_size, so that the results are the same to rounding",
    )
    pack: Literal["pair", "prompt"] = Field(
        "pair",
        description="what shares a computed prefix: the answers of one pair, pairs in random order "
        "(release), or those of all pairs of a prompt, "
        "prompts in random order: about 1.5 times as fast with two pairs a prompt; sizes count pairs either "
        "way",
    )
    max_length: int | None = Field(
        2048,
        strict=True,
        ge=2,
        description="most tokens of a prompt with one answer, an image's included (release)",
    )
    truncation: Literal["right", "left"] = Field(
        "right",
        description="what is cut off longer ones: the answer's end (release), or the question's beginning, "
        "never the image",
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(
        1000, description="prompts a chunk of reference_log_probs"
    )
    checkpoint_every: float = Field(
        0.25, gt=0, le=1e4, description="a checkpoint every so many epochs (release)"
    )
    warmup_ratio: Share = Field(
        0.05,
        description="share of the steps in which the learning rate rises (release); cosine to 0 after it",
    )
    weight_decay: float = Field(0.01, ge=0, le=1e3, description="AdamW (release)")
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: Annotated[bool, Effect.EXECUTION] = Field(
        True, description="less memory for a third more time; the results are the same to rounding"
    )
    freeze: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        description="weights that stay as they are, each by a part of its name, which must fit some; without "
        "it the vision tower's, by the names it has in LLaVA, Qwen-VL, Idefics and MiniCPM-V",
    )
    lora: LoraParams | None = Field(None, description="adapters instead of full fine-tuning")
    launch: LaunchParams = LaunchParams()
    deepspeed: str | None = Field(
        None,
        description="file with a DeepSpeed configuration, e.g. conf/deepspeed/zero2.json (release): "
        "optimiser states are spread over processes",
    )
    dataloader_num_workers: Annotated[int, Effect.EXECUTION] = Field(
        0, strict=True, ge=0, le=64, description="processes that prepare batches beside each training process"
    )
    report_to: Annotated[
        list[Literal["tensorboard", "mlflow", "wandb", "swanlab", "trackio"]], Effect.EXECUTION
    ] = Field(
        ["tensorboard"],
        description="services that log the training beside the training_log table; mlflow also the whole "
        "run. All but tensorboard are to be installed",
    )
    collapse_log_ratio: Annotated[float, Effect.EXECUTION] = Field(
        -200.0,
        lt=0,
        description="stop if the mean log-ratio of the rejected answers falls below this, in nats an answer",
    )

    @field_validator("mix")
    @classmethod
    def _adds_to_the_own_pairs(cls, value: dict[str, MixSource]) -> dict[str, MixSource]:
        mix = {"preference_pairs": MixSource(), **value}
        if not any(source.weight for source in mix.values()):
            raise ValueError("all weights are 0, so that there is nothing to train on")
        return mix

    def autocast(self, dtype: str) -> bool:
        """Whether training computes under autocast: in a lower dtype, unless DeepSpeed does it its way."""
        return dtype != "float32" and self.deepspeed is None

    def numerics(self, dtype: str) -> str:
        """How log-probs are computed in training, in words; those of the reference must be alike.

        Under autocast it matters which weights are float32: those that learn.
        """
        if not self.autocast(dtype):
            return dtype
        frozen = "the vision tower" if self.freeze is None else ", ".join(self.freeze) or "nothing"
        learning = f"all but {frozen}"
        if self.lora is not None:
            learning = f"the projector (frozen: {frozen})" if self.lora.projector else "none"
        return f"{dtype} under autocast, float32 weights: {learning}"

    def sources(self) -> list[str]:
        """The catalog's entries that are trained on, in their order."""
        return [name for name, source in self.mix.items() if source.weight]

    def micro_batch(self) -> int:
        """Pairs a forward pass of one process."""
        return min(self.micro_batch_size, max(1, self.batch_size // self.launch.total()))

    def accumulation(self) -> int:
        """Forward passes of each process in an optimiser step.

        Raises:
            UserError: A step's pairs don't divide among the processes and their forward passes.
        """
        together = self.micro_batch() * self.launch.total()
        if self.batch_size % together:
            shared = f" times {self.launch.total()} processes" if self.launch.total() > 1 else ""
            raise UserError(
                f"training.batch_size={self.batch_size} is not a multiple of "
                f"training.micro_batch_size={self.micro_batch()}{shared}."
            )
        return self.batch_size // together

    def steps_an_epoch(self, pairs: int) -> int:
        """Optimiser steps in which every pair is used once."""
        return math.ceil(pairs / self.batch_size)

    def steps(self, pairs: int) -> int:
        """Optimiser steps of a whole training."""
        return max(1, round(self.steps_an_epoch(pairs) * self.epochs))

    def save_steps(self, pairs: int) -> int:
        """Optimiser steps from one checkpoint to the next; the last step is saved too."""
        return max(1, math.ceil(self.steps_an_epoch(pairs) * self.checkpoint_every))

    def checkpoint_steps(self, pairs: int) -> list[int]:
        """The steps after which there is a checkpoint, in order."""
        every, last = self.save_steps(pairs), self.steps(pairs)
        return [*range(every, last, every), last]

    @model_validator(mode="after")
    def _divides(self) -> "TrainingParams":
        self.accumulation()
        return self

    @model_validator(mode="after")
    def _has_an_objective(self) -> "TrainingParams":
        if not self.dpo_weight and not self.sft_weight:
            raise ValueError("dpo_weight and sft_weight are both 0, so that nothing would be learnt")
        return self
