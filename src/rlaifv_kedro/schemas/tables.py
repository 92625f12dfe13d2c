"""The project's tables: columns, types, keys."""

from collections.abc import Iterable

import pyarrow as pa

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas.kind import Table

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FINGERPRINT = "fingerprint"
"""``frame.attrs`` key that travels with a table into its file's metadata, as JSON."""


def _schema(columns: dict[str, pa.DataType], nullable: Iterable[str] = ()) -> pa.Schema:
    return pa.schema(
        [pa.field(name, dtype, nullable=name in set(nullable)) for name, dtype in columns.items()]
    )


_TEXT, _I32, _I64, _F64, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_CANDIDATE = {"prompt_id": _TEXT, "candidate": _I32}
_CLAIM = {**_CANDIDATE, "claim": _I32}
_VERDICT = {"p_yes": _F64, "p_no": _F64, "accepted": _BOOL, "first_token": _TEXT}  # missing in no verdict
_METRIC = {
    "benchmark": _TEXT,
    "metric": _TEXT,
    "value": _F64,
    "n": _I64,
    "failed": _I64,
    "standard_error": _F64,
    "protocol": _TEXT,
}
_UNDEFINED = ("value", "standard_error")  # a rate over no object is NaN, not 0
_PAIR_ORIGIN = {
    "chosen_score": _F64,
    "rejected_score": _F64,
    "iteration": _I32,
    "prompt_id": _TEXT,
    "chosen_candidate": _I32,
    "rejected_candidate": _I32,
}
_JUDGEMENT = {
    **dict.fromkeys(
        (
            "policy",
            "benchmark",
            "item_id",
            "step",
            "prompt_hash",
            "asked_model",
            "returned_model",
            "reply",
            "verdict",
            "error",
        ),
        _TEXT,
    ),
    "replies": _I32,
    "prompt_tokens": _I64,
    "reply_tokens": _I64,
}
_UNKNOWN = ("returned_model", "reply", "verdict", "error", "prompt_tokens", "reply_tokens")
_LOGGED = (
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "reward_margin",
    "reward_accuracy",
    "log_ratio_chosen",
    "log_ratio_rejected",
)

TABLES: dict[str, Table] = {
    "prompts": Table(
        _schema(
            {
                "prompt_id": _TEXT,
                "question": _TEXT,
                "image": IMAGE,
                "image_id": _I64,
                "origin_dataset": _TEXT,
                "question_type": _TEXT,
            },
            nullable=("image_id", "question_type"),
        ),
        key=("prompt_id",),
        filled=("prompt_id", "question"),
    ),
    "drawn_prompts": Table(
        _schema({"prompt_id": _TEXT, "iteration": _I32}), key=("prompt_id",), filled=("prompt_id",)
    ),
    "candidates": Table(
        _schema({**_CANDIDATE, "answer": _TEXT, "token_count": _I32, "finish_reason": _TEXT, "seed": _I64}),
        key=("prompt_id", "candidate"),
    ),
    "claims": Table(
        _schema({**_CLAIM, "text": _TEXT, "question": _TEXT}),
        key=("prompt_id", "candidate", "claim"),
        filled=("text", "question"),
    ),
    "verdicts": Table(
        _schema({**_CLAIM, **_VERDICT}, nullable=_VERDICT),
        key=("prompt_id", "candidate", "claim"),
        optional=frozenset(("first_token",)),  # earlier versions didn't keep it
    ),
    "scores": Table(
        _schema({**_CANDIDATE, "claim_count": _I32, "rejected_count": _I32, "score": _F64}),
        key=("prompt_id", "candidate"),
        optional=frozenset(("claim_count", "rejected_count")),  # scores made of rewards know no claims
    ),
    "answer_scores": Table(_schema({**_CANDIDATE, "score": _F64}), key=("prompt_id", "candidate")),
    "candidate_rewards": Table(
        _schema(
            {
                **_CANDIDATE,
                "policy_log_prob": _F64,
                "reference_log_prob": _F64,
                "token_count": _I32,
                "reward_sum": _F64,
                "reward": _F64,
            }
        ),
        key=("prompt_id", "candidate"),
    ),
    "preference_pairs": Table(
        _schema(
            {
                "ds_name": _TEXT,
                "image": IMAGE,
                "question": _TEXT,
                "chosen": _TEXT,
                "rejected": _TEXT,
                "origin_dataset": _TEXT,
                "origin_split": _TEXT,
                "idx": _I64,
                "image_path": _TEXT,
                **_PAIR_ORIGIN,
            },
            nullable=("origin_split", "image_path"),
        ),
        key=("idx",),
        filled=("question", "chosen", "rejected"),
        optional=frozenset(_PAIR_ORIGIN),
    ),
    "training_pairs": Table(
        _schema(
            {
                "idx": _I64,
                "question": _TEXT,
                "chosen": _TEXT,
                "rejected": _TEXT,
                "image": IMAGE,
                "origin_dataset": _TEXT,
                "origin_split": _TEXT,
                "source": _TEXT,
                "source_idx": _I64,
                "prompt_key": _TEXT,
                "content_key": _TEXT,
            },
            nullable=("origin_split",),
        ),
        key=("idx",),
        filled=("question", "chosen", "rejected"),
    ),
    "reference_log_probs": Table(
        _schema(
            {"idx": _I64, "chosen": _F64, "rejected": _F64, "chosen_tokens": _I32, "rejected_tokens": _I32}
        ),
        key=("idx",),
    ),
    "benchmark_items": Table(
        _schema(
            {
                "benchmark": _TEXT,
                "item_id": _TEXT,
                "question": _TEXT,
                "image": IMAGE,
                "image_id": _I64,
                "kind": _TEXT,
                "reference": _TEXT,  # JSON: what the scorer knows of the item
            },
            nullable=("image", "image_id", "kind"),
        ),
        key=("benchmark", "item_id"),
        filled=("item_id", "question", "reference"),
    ),
    "answers": Table(
        _schema(
            {
                "policy": _TEXT,
                "benchmark": _TEXT,
                "item_id": _TEXT,
                "question": _TEXT,
                "answer": _TEXT,
                "token_count": _I32,
                "finish_reason": _TEXT,
            }
        ),
        key=("policy", "benchmark", "item_id"),
        filled=("policy", "item_id"),
    ),
    "item_scores": Table(
        _schema(
            {
                **dict.fromkeys(("policy", "benchmark", "item_id", "kind", "image_id", "metric"), _TEXT),
                **{"value": _F64, "weight": _F64, "note": _TEXT},
            },
            nullable=("kind", "image_id", "value", "note"),
        ),
        key=("policy", "benchmark", "item_id", "metric"),
        optional=frozenset(("image_id",)),  # tables of earlier versions
    ),
    "metrics": Table(
        _schema({"policy": _TEXT, **_METRIC}, nullable=_UNDEFINED), key=("policy", "benchmark", "metric")
    ),
    "policy_comparisons": Table(
        _schema(
            {
                "benchmark": _TEXT,
                "metric": _TEXT,
                "policy": _TEXT,
                "other": _TEXT,
                "difference": _F64,
                "low": _F64,
                "high": _F64,
                "n": _I64,
            },
            nullable=("difference", "low", "high"),
        ),
        key=("benchmark", "metric", "policy", "other"),
    ),
    "coco_truth": Table(
        _schema({"image_id": _I64, "split": _TEXT, "file_name": _TEXT, "categories": pa.list_(_TEXT)}),
        key=("image_id",),
        filled=("file_name",),
    ),
    "judgements": Table(
        _schema(_JUDGEMENT, nullable=_UNKNOWN),
        key=("policy", "benchmark", "item_id", "step"),
        filled=("policy", "item_id", "step", "asked_model"),
    ),
    "loop_metrics": Table(
        _schema({"iteration": _I64, "policy": _TEXT, **_METRIC}, nullable=_UNDEFINED),
        key=("iteration", "benchmark", "metric"),
    ),
    "probes": Table(
        _schema({"item_id": _TEXT, "image_id": _I64, "kind": _TEXT, "question": _TEXT, "answer": _TEXT}),
        key=("item_id",),
    ),
    "probe_replies": Table(
        _schema({"item_id": _TEXT, "p_yes": _F64, "p_no": _F64}, nullable=("p_yes", "p_no")), key=("item_id",)
    ),
    "checkpoint_metrics": Table(
        _schema({"checkpoint": _TEXT, "step": _I64, "epoch": _F64, **_METRIC}, nullable=_UNDEFINED),
        key=("checkpoint", "benchmark", "metric"),
    ),
    "training_log": Table(
        _schema({"step": _I64, **dict.fromkeys(_LOGGED, _F64)}, nullable=_LOGGED), key=("step",)
    ),
    "rejects": Table(
        _schema({"stage": _TEXT, "key": _TEXT, "why": _TEXT}),
        key=("stage", "key"),
        filled=("why",),
        longest={"why": 1000},
    ),
}


def table(name: str) -> Table:
    """The table called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in TABLES:
        raise UserError(f"There is no table called `{name}`. Use one of: {', '.join(TABLES)}.")
    return TABLES[name]
