"""Reference log-probs: computed once, and tied by a fingerprint to the policy the iteration starts from.

The original release hides them in a dataset constructor and re-uses whatever file lies in the folder, so that
iteration 2 may train against iteration 1's reference. Here they carry what they were computed from, and
training compares.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import (
    Truncation,
    branches_of_pairs,
    distinct_answers,
    pack_pairs,
    weights_of_pairs,
)
from rlaifv_kedro.preference.objective import reduced
from rlaifv_kedro.preference.weights import SUM, Reduction
from rlaifv_kedro.schemas import table

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.params import TrainingParams


# Weights, adapters, configuration, tokenizer and processor; not the state of the training that made them.
_FILES_THAT_COUNT = {".safetensors", ".bin", ".json", ".model", ".jinja", ".txt"}


def fingerprint(
    policy: Path,
    pairs: PairStore,
    processor: "ProcessorMixin",
    numerics: str,
    truncation: Truncation,
    reduction: Reduction = SUM,
) -> dict[str, str]:
    """What reference log-probs depend on, each part as a sha256; numerics and reduction in words.

    Truncation is part of the data.

    Args:
        processor: As the policy was loaded with it: parameters may have changed its template and pictures.
    """
    model = hashlib.sha256()
    for file in sorted(f for f in policy.rglob("*") if f.is_file() and f.suffix in _FILES_THAT_COUNT):
        model.update(file.relative_to(policy).as_posix().encode())
        with file.open("rb") as stream:
            model.update(hashlib.file_digest(stream, "sha256").digest())
    data = hashlib.sha256(f"{truncation!r} {pairs.fingerprint()}".encode())
    template = hashlib.sha256(processor.chat_template.encode()).hexdigest()
    images = hashlib.sha256(processor.image_processor.to_json_string().encode()).hexdigest()
    return {
        "model": model.hexdigest(),
        "data": data.hexdigest(),
        "template": template,
        "images": images,
        "dtype": numerics,
        "log_probs": str(reduction),
    }


def expected_fingerprint(
    policy: Path, pairs: PairStore, model: "TransformersModel", params: "TrainingParams", dtype: str
) -> dict[str, str]:
    """The fingerprint of reference log-probs as a training with these parameters needs them."""
    numerics = params.numerics(dtype)
    return fingerprint(policy, pairs, model.processor, numerics, Truncation.of(params), Reduction.of(params))


def refuse_mismatch(stored: dict[str, str] | None, expected: dict[str, str]) -> None:
    """Raise UserError if reference log-probs were not computed from what they are to be used with.

    Args:
        stored, expected: Fingerprints of what they were computed from, and of what is there now.
    """
    if not stored:
        raise UserError(
            "reference_log_probs carries no fingerprint, so nobody knows what it was computed from. Compute "
            "it again."
        )
    parts = {
        "model": "another policy",
        "data": "other preference pairs or another truncation",
        "template": "another chat template",
        "images": "another preprocessing of pictures",
        "dtype": "another way to compute",
        "log_probs": "another reduction of log-probs",
    }
    wrong = [
        f"{parts[part]} ({part} {_short(stored.get(part))}, now {_short(value)})"
        for part, value in expected.items()
        if stored.get(part) != value
    ]
    if wrong:
        raise UserError(
            f"reference_log_probs belongs to {' and '.join(wrong)}. Compute it again: kedro run --pipelines "
            "training."
        )


def _short(value: str | None) -> str:
    """A hash by its beginning, words as they are."""
    return value[:16] if value is not None and " " not in value else str(value)


def reference_log_probs(
    model: "TransformersModel",
    pairs: PairStore,
    prompts: Sequence[list[int]],
    truncation: Truncation,
    reduction: Reduction = SUM,
) -> pd.DataFrame:
    """Log-probs of the chosen and rejected answer of each pair, each reduced to one number.

    A prompt's distinct answers are computed in one pack, each once however many pairs it is in. Rows come
    prompt by prompt.

    Args:
        prompts: Rows of ``pairs`` by prompt; see :meth:`rlaifv_kedro.datasets.PairStore.by_prompt`.

    Returns:
        idx, chosen, rejected, chosen_tokens, rejected_tokens.
    """
    rows: list[tuple[int, float, float, int, int]] = []
    for start in range(0, len(prompts), model.batch_size):
        part = [[pairs[row] for row in group] for group in prompts[start : start + model.batch_size]]
        packs = [pack_pairs(group, distinct_answers(group), model.encoder, truncation) for group in part]
        scored = model.pack_log_probs([p.image for p in packs], [p.pack for p in packs])
        branches = branches_of_pairs(packs).to(scored.sums.device)
        weights = weights_of_pairs(packs, reduction)
        log_probs = reduced(scored, branches[:, 0], branches[:, 1], weights)
        columns = (*log_probs, *scored.counts[branches].unbind(1))
        rows += zip((pair.idx for group in part for pair in group), *(column.tolist() for column in columns))
    return table("reference_log_probs").frame(rows)
