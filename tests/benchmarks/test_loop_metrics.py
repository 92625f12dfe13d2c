"""How the loop measures its policies."""

from pathlib import Path

import pandas as pd
from PIL import Image

from rlaifv_kedro.benchmarks.loop import answer_probes, probes_by_image, score_probes
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import EvaluationParams, FeedbackParams
from rlaifv_kedro.schemas import check, table


def test_a_probe_without_yes_or_no_has_failed(tiny: Path, pictures: list[Image.Image]) -> None:
    """Random weights say neither, which is not a wrong answer; where any reply counts, all are answers."""
    prompts = table("prompts").frame(
        [
            (f"p{i}", "what?", {"bytes": png_bytes(p), "path": None}, i, "toy", None)
            for i, p in enumerate(pictures[:2])
        ]
    )
    probes = table("probes").frame(
        [
            (f"{i}-{k}", i, "present", f"is there a {k}?", "yes")
            for i in range(2)
            for k in ("cup", "dog", "bus")
        ]
    )
    model = load_model(tiny, device="cpu")

    def measured(min_verdict_mass: float) -> pd.Series:
        feedback = FeedbackParams(
            question_template="{question}",
            yes_words=["yes"],
            no_words=["no"],
            min_verdict_mass=min_verdict_mass,
        )
        asked = list(probes_by_image(prompts, probes))
        replies = answer_probes(model, asked, feedback, EvaluationParams(batch_size=1))
        found = score_probes(check("probe_replies", replies, "replies"), probes, "base", feedback)
        return check("metrics", found, "metrics").iloc[0]

    strict, lenient = measured(0.5), measured(0)
    assert (strict["n"], strict["failed"]) == (0, 6) and pd.isna(strict["value"])
    assert (lenient["n"], lenient["failed"]) == (6, 0) and 0 <= lenient["value"] <= 1
