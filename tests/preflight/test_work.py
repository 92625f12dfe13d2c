"""The dry run's arithmetic, worked by hand."""

import pytest

from rlaifv_kedro.params import LoraParams, Parameters, TrainingParams
from rlaifv_kedro.preflight.assumptions import GPU, Assumptions
from rlaifv_kedro.preflight.counts import Counts, Tables, batches_of
from rlaifv_kedro.preflight.shapes import Shape
from rlaifv_kedro.preflight.sizes import ModelSize
from rlaifv_kedro.preflight.work import Work, operations, packed, sampled, seconds

SIZE = ModelSize(
    1000,
    10,
    2,
    5,
    20,
    4,
    {"embed_tokens": (20, 10), "lm_head": (20, 10), "vision_tower.x": (100,), "layers": (500,)},
)
PLAIN = TrainingParams(gradient_checkpointing=False)


def test_what_a_model_s_parameters_work_on() -> None:
    """1,000 parameters: 200 embed and compute nothing, 200 are the head, 100 see, 500 are left. Patches
    unknown: as many as image tokens.
    """
    shape = Shape.of(SIZE)
    assert (shape.language, shape.head, shape.vision, shape.patches) == (500, 200, 100, 4)
    untold = Shape.of(ModelSize(1000, 10, 2, 5, 20, 4))
    assert (untold.language, untold.head, untold.vision) == (600, 200, 0)


def test_packs_compute_their_prefix_once() -> None:
    """3 packs of a prefix of 10 with 2 branches of 5.

    Tokens 3 x (10 + 2 x 5) = 60; apart 3 x 2 x 15 = 90. Attention: the prefix 10 x 11 / 2 = 55, a branch 5 x
    10 + 15 = 65: 3 x (55 + 130) = 555. Logits at each of 30 branch tokens, or at 6 ends.
    """
    assert packed("policy", 3, 10, 2, 5) == Work(
        "policy", images=3, tokens=60, apart=90, attended=555, logits=30
    )
    assert packed("policy", 3, 10, 2, 5, all_logits=False).logits == 6


def test_samples_wait_for_the_longest() -> None:
    """4 prompts of 10 tokens, 3 samples each of 5 tokens, in 2 batches of 8 steps.

    Prefill 40 tokens, apart 3 x 40. 12 samples x 5 = 60 come out, 12 x 8 = 96 are computed, in 2 x 8 = 16
    steps. A step reads a prompt's cache of 10 and of 3 samples of 4 tokens on average: 4 prompts x 8 steps x
    22 = 704.
    """
    work = sampled("policy", 4, 10, 3, 5, batches=2, longest=8)
    assert work == Work("policy", 4, 40, 120, 220, 4, generated=60, steps=16, decoded=96, cached=704)


def test_operations_of_a_forward_pass_and_of_training() -> None:
    """Of the packs above: 2 x 500 x 60 = 60,000 of parameters, 4 x 2 layers x 10 x 555 = 44,400 of attention,
    2 x 200 x 30 = 12,000 of the head, and 2 x 100 x 4 patches x 3 images = 2,400 of the vision tower, which
    is frozen in training.
    """
    shape, forward = Shape.of(SIZE), packed("policy", 3, 10, 2, 5)
    assert operations(forward, shape, PLAIN) == 116_400 + 2_400
    train = Work(**{**vars(forward), "passes": 1})
    assert operations(train, shape, PLAIN) == 3 * 116_400 + 2_400
    assert operations(train, shape, TrainingParams(gradient_checkpointing=True)) == 4 * 116_400 + 2_400
    assert (
        operations(train, shape, TrainingParams(gradient_checkpointing=False, lora=LoraParams()))
        == 2 * 116_400 + 2_400
    )
    assert operations(train, shape, TrainingParams(gradient_checkpointing=False, freeze=[])) == 3 * (
        116_400 + 2_400
    )


@pytest.mark.parametrize(
    ("flops", "bandwidth", "decoding"),
    [
        (1_000, 1e12, 268.8),  # computing: 2 x 700 x 96 = 134,400 operations, 500 a second
        (
            1e12,
            10_000,
            10.112,
        ),  # reading: 16 x 700 x 2 bytes of weights and 704 x 40 of caches, 5,000 bytes a second
        (1e12, 1e12, 3.2),  # starting: 16 steps x 2 layers x 0.1 s
    ],
)
def test_decoding_takes_what_is_slowest_of_computing_reading_and_starting(
    flops: float, bandwidth: float, decoding: float
) -> None:
    """Prefill: 2 x 500 x 40 + 80 x 220 + 2 x 200 x 4 + 2 x 100 x 4 x 4 = 62,400 operations. 3 GB are read
    from the disk at 1.5 GB/s.
    """
    work = Work(**{**vars(sampled("policy", 4, 10, 3, 5, batches=2, longest=8)), "moved": 3e9})
    assumed = Assumptions(mfu_prefill=0.5, bandwidth_share=0.5, layer_ms=100, disk_gb_s=1.5)
    took = seconds(work, Shape.of(SIZE), "bfloat16", PLAIN, GPU("", flops, bandwidth, 1), assumed)
    assert took == pytest.approx(62_400 / (flops / 2) + decoding + 2)


@pytest.mark.parametrize(
    ("training", "passes", "expected"),
    [
        (PLAIN, 1, 3 * 2 * 500 * 1000 / 2.5e5),  # computing
        (PLAIN, 1000, 1000 * 2 * 0.02),  # starting: passes x 2 layers x 0.02 s
        (PLAIN.model_copy(update={"lora": LoraParams()}), 1000, 1000 * 2 * 0.05),
    ],
)
def test_training_reaches_its_own_share_of_the_peak_or_waits_for_its_kernels(
    training: TrainingParams, passes: float, expected: float
) -> None:
    work = Work("policy", tokens=1000, passes=passes)
    assumed = Assumptions(mfu_train=0.25, train_layer_ms=20, lora_layer_ms=50)
    took = seconds(work, Shape.of(SIZE), "bfloat16", training, GPU("", 1e6, 1, 1), assumed)
    assert took == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pairs", "params", "steps", "checkpoints"),
    [
        (8000, {"batch_size": 8, "epochs": 4, "checkpoint_every": 0.25}, 4000, 16),
        (
            46,
            {"batch_size": 4, "epochs": 4, "checkpoint_every": 0.3},
            48,
            12,
        ),  # 12 steps an epoch, one checkpoint every 4
        (10, {"batch_size": 4, "epochs": 1, "checkpoint_every": 0.5}, 3, 2),  # after 2 steps, and at the end
    ],
)
def test_steps_and_checkpoints(pairs: int, params: dict, steps: int, checkpoints: int) -> None:
    parameters = Parameters(
        data_generation={"prompts": pairs},
        feedback={"pairs_per_prompt": 1},
        training={"micro_batch_size": 1, **params},
    )
    counts = Counts(parameters, Assumptions(), Tables(1, 1, 1, 0), {}, ())
    assert (counts.steps, counts.checkpoints) == (steps, checkpoints)


def test_the_last_batch_of_a_chunk_is_smaller() -> None:
    """250 prompts in chunks of 100 by 8: 13 batches, 13, and 7 for the last 50."""
    assert batches_of(250, 100, 8) == 33
