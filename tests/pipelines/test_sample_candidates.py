"""Sampling candidates of prompts as they come: what asks nothing or doesn't fit is a reject, the rest goes on."""

import json
from pathlib import Path

import pandas as pd
from PIL import Image

from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.params import ComputeParams, DataGenerationParams, ModelsParams
from rlaifv_kedro.pipelines.data_generation.nodes import sample_candidates
from rlaifv_kedro.schemas import table

ASK = "describe the image in detail."
QUESTIONS = {
    "plain": ASK,
    "marked": f"<image>\n{ASK}",
    "nothing but an image": "<image>",
    "nothing but marks": " <|im_end|>\n</s>",
    "too long": f"{ASK} " * 2000,
    "odd": "\0 \u2028 \u200f\u05e9\u05dc e\u0301 \U0001f436\U0001f436",
}


def test_questions_of_all_kinds(tiny: Path, pictures: list[Image.Image]) -> None:
    image = {"bytes": png_bytes(pictures[0]), "path": None}
    prompts = table("prompts").frame(
        [(name, text, image, 0, "own", None) for name, text in QUESTIONS.items()]
    )
    params = DataGenerationParams(candidates=2, max_new_tokens=8, chunk_size=4, top_k=None)
    compute = ComputeParams(device="cpu", dtype="float32")
    *chunks, _ = sample_candidates(prompts, tiny, 0, params, ModelsParams(), compute)
    rejects, candidates = (pd.concat(part.frame for part in parts) for parts in zip(*chunks))
    assert set(candidates["prompt_id"]) == {"plain", "marked", "odd"}
    why = dict(zip(rejects["key"], rejects["why"]))
    assert set(why) == {
        "nothing but an image",
        "nothing but marks",
        *(json.dumps(["too long", k]) for k in range(2)),
    }
    assert "question is empty" in why["nothing but an image"]
    assert "fill the model's context" in why['["too long", 0]']
