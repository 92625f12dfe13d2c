"""Reference log-probs: computed once by the policy the iteration starts from, and tied to it by a fingerprint.

The original release hides them in a dataset constructor and re-uses whatever file lies in the folder, so that iteration 2 may train against
iteration 1's reference. Here they carry what they were computed from, and training compares.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel


# Weights, adapters, configuration, tokenizer and processor; not the state of the training that made them.
_FILES_THAT_COUNT = {".safetensors", ".bin", ".json", ".model", ".jinja", ".txt"}


def fingerprint(policy: Path, pairs: pd.DataFrame, chat_template: str, dtype: str) -> dict[str, str]:
    """What reference log-probs depend on, each part as a sha256 (``dtype`` as its name)."""
    model = hashlib.sha256()
    for file in sorted(f for f in policy.rglob("*") if f.suffix in _FILES_THAT_COUNT):
        model.update(file.relative_to(policy).as_posix().encode())
        with file.open("rb") as stream:
            model.update(hashlib.file_digest(stream, "sha256").digest())
    data = hashlib.sha256()
    for row in pairs[["idx", "question", "chosen", "rejected", "image"]].itertuples(index=False):
        image = row.image.get("bytes") or str(row.image.get("path")).encode()
        data.update(repr((int(row.idx), row.question, row.chosen, row.rejected, hashlib.sha256(image).hexdigest())).encode())
    template = hashlib.sha256(chat_template.encode()).hexdigest()
    return {"model": model.hexdigest(), "data": data.hexdigest(), "template": template, "dtype": dtype}


def refuse_mismatch(stored: dict[str, str] | None, expected: dict[str, str]) -> None:
    """Raise UserError if reference log-probs were not computed from this policy, these pairs, this template and this dtype."""
    if not stored:
        raise UserError("reference_log_probs carries no fingerprint, so nobody knows what it was computed from. Compute it again.")
    parts = {"model": "another policy", "data": "other preference pairs", "template": "another chat template", "dtype": "another dtype"}
    wrong = [
        f"{parts[part]} ({part} {str(stored.get(part))[:12]}, now {value[:12]})" for part, value in expected.items() if stored.get(part) != value
    ]
    if wrong:
        raise UserError(f"reference_log_probs belongs to {' and '.join(wrong)}. Compute it again: kedro run --pipelines training.")


def reference_log_probs(model: "TransformersModel", pairs: pd.DataFrame) -> pd.DataFrame:
    """Summed log-probs of the chosen and rejected answer of each pair: idx, chosen, rejected, chosen_tokens, rejected_tokens."""
    from rlaifv_kedro.models.interface import Question

    rows = []
    for part in batches(list(pairs.itertuples()), model.batch_size, "reference log-probs"):
        questions = [Question(open_image(p.image, f"preference pair idx {p.idx}"), p.question) for p in part]
        scored = model.branch_log_probs(questions, [(p.chosen, p.rejected) for p in part])
        rows += [(int(p.idx), c[0], r[0], c[1], r[1]) for p, (c, r) in zip(part, scored)]
    return pd.DataFrame(rows, columns=["idx", "chosen", "rejected", "chosen_tokens", "rejected_tokens"])
