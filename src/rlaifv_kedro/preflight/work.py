"""Pure arithmetic: what a model has to compute, and how long that takes a GPU.

A multiply-add is two operations, so a forward pass takes two a parameter and token; training takes three
times that, with gradient checkpointing four. Attention is counted over the keys that a query may see. Tokens
are generated one a step, which reads all weights and caches: bandwidth, or the time that it takes to start
the kernels, sets the pace.
"""

from dataclasses import dataclass

from rlaifv_kedro.params import TrainingParams
from rlaifv_kedro.preflight.assumptions import GPU, Assumptions
from rlaifv_kedro.preflight.shapes import Shape
from rlaifv_kedro.preflight.sizes import BYTES
from rlaifv_kedro.training.learning import parts_to_freeze


@dataclass(frozen=True)
class Work:
    """What one model does in a stage.

    Attributes:
        role: policy, labeler, splitter or question_writer.
        images: That its vision tower sees.
        tokens: Of its language model, many at once: a prefix once, then its branches.
        apart: The same if every text had a prefix of its own.
        attended: Query-key pairs a layer.
        logits: Positions at which the head works.
        generated: Tokens that come out.
        steps: Of decoding, a batch each.
        decoded: Tokens computed in them: also those of answers that have ended and wait for the batch's
            longest.
        cached: Tokens of cache read in them.
        passes: Forward passes that are followed by a backward pass, on all GPUs; 0 where nothing learns.
        moved: Bytes of checkpoints read and written.
        loads: Models whose files these are, one after the other.
    """

    role: str
    images: float = 0
    tokens: float = 0
    apart: float = 0
    attended: float = 0
    logits: float = 0
    generated: float = 0
    steps: float = 0
    decoded: float = 0
    cached: float = 0
    passes: float = 0
    moved: float = 0
    loads: int = 1


def causal(tokens: float) -> float:
    """Query-key pairs of a text that sees itself."""
    return tokens * (tokens + 1) / 2


def packed(
    role: str,
    packs: float,
    prefix: float,
    branches: float,
    tokens: float,
    *,
    all_logits: bool = True,
) -> Work:
    """Packs of a prefix with its branches, in one forward pass each.

    Args:
        branches: Of a pack.
        tokens: Of a branch.
        all_logits: At all tokens of a branch, or at its end only.
    """
    return Work(
        role,
        packs,
        packs * (prefix + branches * tokens),
        packs * branches * (prefix + tokens),
        packs * (causal(prefix) + branches * (tokens * prefix + causal(tokens))),
        packs * branches * (tokens if all_logits else 1),
    )


def sampled(
    role: str,
    prompts: float,
    prefix: float,
    samples: int,
    tokens: float,
    *,
    batches: float,
    longest: float,
) -> Work:
    """Samples of prompts.

    A prompt is computed once, then all samples of a batch go on token by token until the longest has ended.

    Args:
        samples: Of a prompt.
        tokens: Of a sample, on average.
        batches: How many the prompts make.
        longest: Steps of a batch.
    """
    answers = prompts * samples
    return Work(
        role,
        prompts,
        prompts * prefix,
        answers * prefix,
        prompts * causal(prefix),
        prompts,
        answers * tokens,
        batches * longest,
        answers * longest,
        prompts * longest * (prefix + samples * longest / 2),
    )


def backward(params: TrainingParams) -> float:
    """Forward passes that a step of training takes.

    They are the pass itself, twice that for gradients (of adapters once: the weights need none), and once
    more if activations are recomputed.
    """
    return 1 + (1 if params.lora else 2) + params.gradient_checkpointing


def operations(work: Work, shape: Shape, training: TrainingParams) -> float:
    """Floating point operations, decoding left out."""
    size = shape.size
    language = (
        2 * shape.language * work.tokens
        + 4 * size.layers * size.hidden * work.attended
        + 2 * shape.head * work.logits
    )
    vision = 2 * shape.vision * shape.patches * work.images
    if not work.passes:
        return language + vision
    frozen = training.lora is not None or size.frozen(parts_to_freeze(training)) >= shape.vision
    return backward(training) * language + vision * (1 if frozen else backward(training))


def seconds_computing(
    work: Work, shape: Shape, training: TrainingParams, gpu: GPU, assumed: Assumptions
) -> float:
    """Seconds that the operations take one GPU, decoding left out."""
    share = assumed.mfu_train if work.passes else assumed.mfu_prefill
    return operations(work, shape, training) / (gpu.flops * share)


def seconds_starting(work: Work, shape: Shape, training: TrainingParams, assumed: Assumptions) -> float:
    """Seconds that a CPU takes to start the kernels of training's passes: the passes take no less."""
    a_layer = assumed.lora_layer_ms if training.lora else assumed.train_layer_ms
    return work.passes * shape.size.layers * a_layer / 1000


def seconds(
    work: Work, shape: Shape, dtype: str, training: TrainingParams, gpu: GPU, assumed: Assumptions
) -> float:
    """Seconds that the work takes one GPU."""
    total = max(
        seconds_computing(work, shape, training, gpu, assumed),
        seconds_starting(work, shape, training, assumed),
    ) + work.moved / (1e9 * assumed.disk_gb_s)
    if work.steps:
        read = (
            work.steps * (shape.language + shape.head) * BYTES[dtype]
            + shape.size.cache(1, dtype) * work.cached
        )
        computed = 2 * (shape.language + shape.head) * work.decoded
        started = work.steps * shape.size.layers * assumed.layer_ms / 1000
        total += max(
            started,
            read / (gpu.bandwidth * assumed.bandwidth_share),
            computed / (gpu.flops * assumed.mfu_prefill),
        )
    return total
