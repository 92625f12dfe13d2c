"""Reference log-probs: computed once by the policy the iteration starts from, and tied to it by a fingerprint.

The original release hides them in a dataset constructor and re-uses whatever file lies in the folder, so that iteration 2 may train against
iteration 1's reference. Here they carry what they were computed from, and training compares.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import Truncation, distinct_answers, pack_pairs

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel


# Weights, adapters, configuration, tokenizer and processor; not the state of the training that made them.
_FILES_THAT_COUNT = {".safetensors", ".bin", ".json", ".model", ".jinja", ".txt"}


def fingerprint(policy: Path, pairs: PairStore, chat_template: str, dtype: str, truncation: Truncation) -> dict[str, str]:
    """What reference log-probs depend on, each part as a sha256 (``dtype`` as its name; truncation is part of the data)."""
    model = hashlib.sha256()
    for file in sorted(f for f in policy.rglob("*") if f.suffix in _FILES_THAT_COUNT):
        model.update(file.relative_to(policy).as_posix().encode())
        with file.open("rb") as stream:
            model.update(hashlib.file_digest(stream, "sha256").digest())
    data = hashlib.sha256(f"{truncation!r} {pairs.fingerprint()}".encode())
    template = hashlib.sha256(chat_template.encode()).hexdigest()
    return {"model": model.hexdigest(), "data": data.hexdigest(), "template": template, "dtype": dtype}


def refuse_mismatch(stored: dict[str, str] | None, expected: dict[str, str]) -> None:
    """Raise UserError if reference log-probs were not computed from this policy, these pairs, this template and this dtype."""
    if not stored:
        raise UserError("reference_log_probs carries no fingerprint, so nobody knows what it was computed from. Compute it again.")
    parts = {
        "model": "another policy",
        "data": "other preference pairs or another truncation",
        "template": "another chat template",
        "dtype": "another dtype",
    }
    wrong = [
        f"{parts[part]} ({part} {str(stored.get(part))[:12]}, now {value[:12]})" for part, value in expected.items() if stored.get(part) != value
    ]
    if wrong:
        raise UserError(f"reference_log_probs belongs to {' and '.join(wrong)}. Compute it again: kedro run --pipelines training.")


def reference_log_probs(model: "TransformersModel", pairs: PairStore, prompts: Sequence[list[int]], truncation: Truncation) -> pd.DataFrame:
    """Summed log-probs of the chosen and rejected answer of each pair: idx, chosen, rejected, chosen_tokens, rejected_tokens.

    A prompt's distinct answers are computed in one pack, each once however many pairs it is in. Rows come prompt by prompt.

    Args:
        prompts: Rows of ``pairs`` by prompt; see :meth:`rlaifv_kedro.datasets.PairStore.by_prompt`.
    """
    rows = []
    for start in range(0, len(prompts), model.batch_size):
        part = [[pairs[row] for row in group] for group in prompts[start : start + model.batch_size]]
        packs = [pack_pairs(group, distinct_answers(group), model.encoder, truncation) for group in part]
        scored = model.score_packs([p.image for p in packs], [p.pack for p in packs])
        for group, p, branches in zip(part, packs, scored):
            for pair, (chosen, rejected) in zip(group, p.pairs):
                rows.append((pair.idx, branches[chosen][0], branches[rejected][0], branches[chosen][1], branches[rejected][1]))
    return pd.DataFrame(rows, columns=["idx", "chosen", "rejected", "chosen_tokens", "rejected_tokens"])
