"""How much memory and disk a run takes, in bytes.

All is worked out from the parameters and the sizes of the models, not measured.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlaifv_kedro.params import DataGenerationParams, Parameters, ServingParams, TrainingParams
from rlaifv_kedro.training.distributed import deepspeed_config
from rlaifv_kedro.training.learning import ADAPTED, PROJECTORS, TOWERS, parts_to_freeze

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

RESERVE = 2_000_000_000
"""The CUDA context, workspaces, and what falls between allocations."""

QUESTION_TOKENS = 64
"""Of a prompt beside its image: system sentence and question."""

CLAIM_QUESTIONS_TOKENS = 60 * 25
"""Questions about an image, of all its candidates, times the tokens of one."""

LAYER_BYTES = 34
"""Activations of a transformer layer, a token and unit of width, in 16 bits and without attention's scores
(Korthikanti et al. 2022, equation 2).
"""

LOGIT_BYTES = 12
"""Of a logit in training: in float32 itself, its log-softmax, its gradient."""

SUB_GROUP = 1_000_000_000
"""Weights whose gradients DeepSpeed's stage 3 copies at a time, where its file says nothing else."""

ANSWER_BYTES = 5_000
"""Of a candidate with its claims and verdicts, in the tables."""


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on.

    Attributes:
        parameters: How many numbers the weights are.
        shapes: Of each tensor; empty if its file can't tell without being read whole (``.bin``).
        hidden, layers, kv_width, vocabulary: Of the language model; ``kv_width`` is key heads times their
            width.
        image_tokens: That stand for an image, at most.
        patches: Of an image, at most, that the vision tower sees; 0 if unknown.
    """

    parameters: int
    hidden: int
    layers: int
    kv_width: int
    vocabulary: int
    image_tokens: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    patches: int = 0

    def frozen(self, parts: Iterable[str]) -> int:
        """Parameters whose names contain one of the parts."""
        parts = tuple(parts)
        return sum(
            math.prod(shape) for name, shape in self.shapes.items() if any(part in name for part in parts)
        )

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters: rank x (inputs + outputs) a layer."""
        layers = [
            s
            for n, s in self.shapes.items()
            if n.removesuffix(".weight").rpartition(".")[2] in ADAPTED and not any(t in n for t in TOWERS)
        ]
        return sum(rank * sum(shape) for shape in layers)

    def learning(self, params: TrainingParams) -> int:
        """Parameters that training changes."""
        if params.lora is None:
            return self.parameters - self.frozen(parts_to_freeze(params))
        return self.adapters(params.lora.rank) + self._projector(params)

    def _projector(self, params: TrainingParams) -> int:
        """Parameters of the projector that learns beside adapters."""
        kept = parts_to_freeze(params)
        return sum(
            math.prod(shape)
            for name, shape in self.shapes.items()
            if params.lora.projector
            and any(part in name for part in PROJECTORS)
            and not any(part in name for part in kept)
        )

    def prefix(self) -> int:
        """Tokens of an image and its question."""
        return self.image_tokens + QUESTION_TOKENS

    def cache(self, tokens: int, dtype: str) -> int:
        """Keys and values of so many tokens."""
        return 2 * self.layers * self.kv_width * tokens * BYTES[dtype]

    def layer(self, tokens: int) -> int:
        """Activations of one layer."""
        return LAYER_BYTES * self.hidden * tokens


def serving_memory(size: ModelSize, serving: ServingParams, dtype: str) -> int:
    """What a GPU of a server of vLLM needs at least: its part of the weights; the cache takes the rest."""
    return size.parameters * BYTES[dtype] // serving.gpus_per_server + RESERVE


def sampling_memory(policy: ModelSize, params: DataGenerationParams, dtype: str) -> int:
    """Weights, and the cache of a batch: each prompt's prefix once, and all its candidates."""
    tokens = params.batch_size * (policy.prefix() + params.candidates * params.max_new_tokens)
    return policy.parameters * BYTES[dtype] + policy.cache(tokens, dtype) + RESERVE


def dividing_memory(
    models: list[tuple[ModelSize, str]], batch_size: int, max_new_tokens: int, answer_tokens: int
) -> int:
    """Weights of splitter and question writer, both loaded, and the larger cache.

    A reply that is cut off is asked for at twice its length.

    Args:
        models: Sizes with their dtypes.
    """
    tokens = batch_size * (answer_tokens + 4 * QUESTION_TOKENS + 2 * max_new_tokens)
    weights = sum(size.parameters * BYTES[dtype] for size, dtype in models)
    return weights + max(size.cache(tokens, dtype) for size, dtype in models) + RESERVE


def labeling_memory(labeler: ModelSize, batch_size: int, max_tokens_per_pack: int, dtype: str) -> int:
    """Weights, and the activations of one layer over a batch of packs."""
    pack = min(labeler.prefix() + CLAIM_QUESTIONS_TOKENS, max_tokens_per_pack)
    return labeler.parameters * BYTES[dtype] + labeler.layer(batch_size * pack) + RESERVE


def training_memory(policy: ModelSize, params: TrainingParams, answer_tokens: int, dtype: str) -> int:
    """Of one GPU: what learns with its gradients and Adam's state, the other weights, activations.

    See ``_trainable`` in rlaifv_kedro.training.training.
    """
    pairs = params.micro_batch()
    answers = 2 * pairs * answer_tokens
    tokens = pairs * policy.prefix() + answers
    kept = policy.layers * policy.layer(tokens)
    if (
        params.gradient_checkpointing
    ):  # each layer's input, in float32 as the residual stream is, and one layer at a time
        kept = policy.layers * policy.hidden * 4 * tokens + policy.layer(tokens)
    logits = LOGIT_BYTES * policy.vocabulary * answers
    config = deepspeed_config(params)
    # Before DeepSpeed spreads the weights (stage 3), it puts all of them on each GPU.
    whole = policy.parameters * BYTES[dtype] if config and config["zero_optimization"]["stage"] == 3 else 0
    return (
        max(whole, _states(policy, params, dtype) + max(kept + logits, _step(policy, params, dtype)))
        + RESERVE
    )


def _states(policy: ModelSize, params: TrainingParams, dtype: str) -> int:
    """Weights, gradients and both of Adam's moments, on one GPU.

    Without DeepSpeed what learns is float32, with autocast's copy; several processes hold a bucket for each
    gradient too. DeepSpeed has weights and gradients in ``dtype``, and a float32 copy of what learns: stage 1
    spreads that copy and the moments over the processes, 2 the gradients, 3 the weights (Rajbhandari et al.
    2020, section 5).
    """
    learning = policy.learning(params)
    others = policy.parameters if params.lora else policy.parameters - learning
    width, processes = BYTES[dtype], params.launch.total()
    config = deepspeed_config(params)
    if config is None:
        copies = 0 if dtype == "float32" else width
        return learning * (4 + 4 + 8 + copies + (4 if processes > 1 else 0)) + others * width
    zero = config["zero_optimization"]
    stage = zero["stage"]
    adam = 0 if _lies_elsewhere(zero, "offload_optimizer") else 12 * learning / processes
    gradients = width * learning / (processes if stage >= 2 else 1)
    weights = width * (learning + others) / (processes if stage == 3 else 1)
    return round(adam + gradients + (0 if _lies_elsewhere(zero, "offload_param") else weights))


def _step(policy: ModelSize, params: TrainingParams, dtype: str) -> int:
    """What the optimiser's step holds beside all states, when the activations are gone.

    DeepSpeed copies the gradients of its share into one tensor, and that to float32; stage 3 so many weights
    at a time (``step`` in its stage_1_and_2.py and stage3.py, 0.19). 7 B parameters under stage 2 ran out of
    the 140 GiB of one GPU that way (docs/performance.md). PyTorch's fused AdamW, which trains without it,
    holds nothing beside.
    """
    config = deepspeed_config(params)
    if config is None or _lies_elsewhere(zero := config["zero_optimization"], "offload_optimizer"):
        return 0
    share = policy.learning(params) / params.launch.total()
    if zero["stage"] == 3:
        at_once = zero.get("sub_group_size", "auto")
        share = min(share, SUB_GROUP if at_once == "auto" else float(at_once))
    return round((4 + BYTES[dtype]) * share)


def _lies_elsewhere(zero: Mapping[str, Any], what: str) -> bool:
    """Whether DeepSpeed keeps it outside of the GPU; a ``device`` of ``none``, the default, is the GPU."""
    return (zero.get(what) or {}).get("device", "none") != "none"


def checkpoint_disk(policy: ModelSize, params: TrainingParams, dtype: str) -> tuple[int, int]:
    """Bytes of a checkpoint that stays, and of what lies beside it to resume from.

    The latter are Adam's moments, until the training has ended.
    """
    learning = policy.learning(params)
    others = 0 if params.lora else policy.parameters - learning
    return 4 * learning + BYTES[dtype] * others, 8 * learning


def staying(count: int, parameters: Parameters, written: Collection[str]) -> int:
    """How many of an iteration's checkpoints are left when the next one begins: the best, and the last."""
    keep = parameters.evaluation.keep_best
    return count if keep is None or "kept_checkpoints" not in written else min(count, keep + 1)


def run_disk(
    parameters: Parameters,
    policy: ModelSize | None,
    image_bytes: float,
    iterations: int,
    written: Collection[str],
) -> dict[str, int]:
    """What a run writes and holds at once, in bytes by kind.

    Args:
        image_bytes: Mean size of an image in the prompt table; 0 where the table names files.
        iterations: How many the run goes through.
        written: The artifacts that it writes, without namespaces.
    """
    parts = _tables_disk(parameters, image_bytes, iterations, written)
    if "checkpoints" not in written or policy is None:
        return parts
    training, dtype = parameters.training, parameters.compute.dtype
    count = math.ceil(training.epochs / training.checkpoint_every)
    kept, beside = checkpoint_disk(policy, training, dtype)
    stay = staying(count, parameters, written)
    parts["checkpoints"] = ((iterations - 1) * stay + count) * kept
    # Of the newest two, and of the next one while that is written.
    parts["optimizer states"] = min(count, 3) * beside
    if training.lora and "trained_policy" in written:
        # As the base is stored, most likely.
        parts["merged policies"] = iterations * policy.parameters * BYTES[dtype]
    return parts


def _tables_disk(
    parameters: Parameters, image_bytes: float, iterations: int, written: Collection[str]
) -> dict[str, int]:
    generation, parts = parameters.data_generation, {}
    prompts = iterations * generation.prompts
    pairs = round(prompts * parameters.feedback.pairs_per_prompt * (image_bytes + ANSWER_BYTES))
    if "prompts" in written:
        parts["prompts"] = round(prompts * image_bytes)
    if not {"candidates", "verdicts"}.isdisjoint(written):
        parts["answers and verdicts"] = prompts * generation.candidates * ANSWER_BYTES
    if "preference_pairs" in written:
        parts["pairs"] = pairs
    if "training_pairs" in written:
        parts["training pairs"] = pairs  # once more, to be read while they are trained on
    return parts
