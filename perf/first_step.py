"""How far a policy is from its own reference before anything is learnt, in nats an answer.

    python perf/first_step.py

The miniature's base policy on 24 answers, in each dtype, full and with adapters: the reference as bfloat16
weights alone give it ("plain"), and as training computes ("alike"), in packs of a pair and of a prompt.
"""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gpu.pairs import Pair, store_of
from PIL import Image

from rlaifv_kedro.datasets import PairStore
from rlaifv_kedro.miniature.scenes import draw_scene
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import LoraParams, TrainingParams
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.preference.reference import reference_log_probs
from rlaifv_kedro.training.numerics import compute_as_training_does
from rlaifv_kedro.training.trainer import PreferenceTrainer
from rlaifv_kedro.training.training import TrainingJob, train

POLICY = Path("data/06_models/miniature/seed_0/base_policy/shipped/base_policy")
NOUNS = ["cup", "dog", "bus", "kite", "clock", "boat", "book", "bench", "bowl", "tv", "cat", "bird"]


def pair_store(folder: Path) -> PairStore:
    """Twelve pairs of six prompts."""
    pairs = []
    for i, noun in enumerate(NOUNS):
        image = Image.fromarray(draw_scene(7, "first step", i % 6).pixels)
        rejected = f"there is a {noun}." if i % 2 else f"i see a {noun} and a {NOUNS[i - 1]}."
        chosen = f"it contains a {NOUNS[i % 6]} and an apple."
        pairs.append(Pair(image, "name three objects in the image.", chosen, rejected))
    return store_of(folder, pairs)


def largest(pairs: PairStore, params: TrainingParams, dtype: str, alike: bool) -> float:
    """The largest log-ratio of a training in which nothing moves."""
    model = load_model(POLICY, device="cpu", dtype=dtype)
    if alike:
        compute_as_training_does(model, params, dtype)
    reference = reference_log_probs(model, pairs, pairs.by_prompt(), Truncation())
    found: list[float] = []
    pair_loss = PreferenceTrainer._pair_loss

    def watched(trainer: PreferenceTrainer, *inputs: object) -> object:
        result = pair_loss(trainer, *inputs)
        found.append(float(result.log_ratios.abs().max()))
        return result

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(PreferenceTrainer, "_pair_loss", watched),
        mock.patch.object(PreferenceTrainer, "_check_reference", lambda *_: None),
    ):
        policy = load_model(POLICY, device="cpu", dtype=dtype)
        train(policy, pairs, reference, TrainingJob(POLICY, Path(folder), 5, params, dtype))
    return float(np.max(found))


def main() -> None:
    torch.set_num_threads(1)
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1, "batch_size": 4, "report_to": []}
    print("| training | reference | packs of a prompt | packs of a pair |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        pairs = pair_store(Path(folder))
        for name, lora in (("full", None), ("LoRA", LoraParams(rank=4, dropout=0.0))):
            for dtype in ("bfloat16", "float32"):
                for alike in (False, True):
                    cells = [
                        largest(pairs, TrainingParams(**still, lora=lora, pack=pack), dtype, alike)
                        for pack in ("prompt", "pair")
                    ]
                    way = "alike" if alike else "plain"
                    print(f"| {name}, {dtype} | {way} | {cells[0]:.5f} | {cells[1]:.5f} |", flush=True)


if __name__ == "__main__":
    main()
