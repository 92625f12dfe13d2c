"""What a server of vLLM spends on reading a picture with every question about it, and on reading it once.

    python perf/vllm_pictures.py [--python .venv-vllm/bin/python]

One real server on the CPU with the miniature's labeler, whose own work is small: what is measured is the
processor time of the server's API process a request. It bounds the questions a second of one server,
whatever its GPU does. Both ways ask the same questions about new pictures of LLaVA's size, and must give
the same probabilities.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rlaifv_kedro.leftovers import FOLDER, Record, marked
from rlaifv_kedro.models import close_model, open_model
from rlaifv_kedro.models.backends import vllm_model
from rlaifv_kedro.models.backends.vllm_model import VLLMModel
from rlaifv_kedro.models.backends.vllm_requests import TokenPrompt, first_place, probs_of
from rlaifv_kedro.models.serving.command import MODULE
from rlaifv_kedro.params import ComputeParams, VLLMParams
from rlaifv_kedro.run_folder import set_run_folder

LABELER = Path("data/06_models/miniature/seed_0/labeler/shipped/labeler")
SIDE, PICTURES, QUESTIONS, ROUNDS = 336, 4, 30, 3
WORDS = ("cup", "dog", "ball", "car", "book", "chair", "table", "bird", "cat", "boat")


def photograph(seed: int) -> Image.Image:
    """A picture that compresses about as badly as a photograph."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    smooth = np.stack([x * 255 // SIDE, y * 255 // SIDE, (x + y) % 256], -1)
    noise = np.random.default_rng(seed).integers(-20, 20, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def seconds_of_server(run: Path) -> float:
    """Processor time of the API process so far."""
    [record] = (run / FOLDER).glob("*.running.json")
    for pid in marked(Record.model_validate_json(record.read_bytes()).mark):
        said = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"-m" in said[:2] and MODULE.encode() in said:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / 100  # ticks of 1/100 s
    raise RuntimeError("the server is gone")


def prompts_about(model: VLLMModel, seed: int) -> list[TokenPrompt]:
    pictures = [photograph(seed + k) for k in range(PICTURES)]
    questions = [f"is there a {WORDS[k % 10]}" + " here" * (k // 10) for k in range(QUESTIONS)]
    return [prompt for row in model.prompts(pictures, [questions] * PICTURES) for prompt in row]


def main() -> None:
    """Measure both ways in turn, on one server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=".venv-vllm/bin/python")
    run = Path(tempfile.mkdtemp()) / "run"
    set_run_folder(run)
    serving = {
        "python": parser.parse_args().python,
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        "engine_options": {"enforce-eager": True},
    }
    compute = ComputeParams(device="cpu", dtype="float32")
    model = open_model(VLLMParams(serving=serving, concurrency=16), LABELER, compute, 8, "labeler")
    tokens = [token for group in model.encoder.first_tokens([["yes"], ["no"]]) for token in group]
    vllm_model.as_prepared = lambda picture, processor: picture  # the miniature's pictures are smaller
    spent: dict[str, list[float]] = {"with every question": [], "once": []}
    for turn in range(ROUNDS):
        answers = []
        for k, way in enumerate(spent):
            prompts = prompts_about(model, 1000 * turn)
            # The other way's pictures under other names, so that nothing is there yet.
            prompts = [replace(prompt, name=f"{k}{prompt.name}") for prompt in prompts]
            before = seconds_of_server(run)
            settings = first_place(tokens)
            found = (
                model.requests.generate(prompts, [settings] * len(prompts), lambda c: probs_of(c, tokens))
                if k == 0
                else model.requests.generate_once_a_picture(prompts, settings, lambda c: probs_of(c, tokens))
            )
            spent[way].append((seconds_of_server(run) - before) / len(prompts) * 1000)
            answers.append([[own[token] for token in tokens] for own in found])
        np.testing.assert_allclose(*answers, atol=1e-6)
    close_model(model)
    print(f"{len(prompts[0].picture) // 1024} KiB a picture, {QUESTIONS} questions about each of {PICTURES}")
    for way, own in spent.items():
        print(f"{way}: {np.median(own):.1f} ms a request ({min(own):.1f} to {max(own):.1f})")


if __name__ == "__main__":
    main()
