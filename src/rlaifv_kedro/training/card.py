"""The model card beside a checkpoint: what it was made of and how, and what was measured.

Cards hold neither times nor run ids nor absolute paths, so that the same training writes the same bytes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rlaifv_kedro.datasets.checkpoint import REMOVED
from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.formats import cell, flatten, in_words, number
from rlaifv_kedro.models.cards import write_card
from rlaifv_kedro.models.folder import CARD, CheckpointFolder
from rlaifv_kedro.software import git_state, package_versions

_MEASURED = "\n## Measured\n\n"
_TRAINING = ("loss", "reward_margin", "reward_accuracy", "log_ratio_chosen", "log_ratio_rejected")
# As the catalog has them: conf/base/catalog_pairs.yml.
_DATASETS = {"published_pairs": "openbmb/RLAIF-V-Dataset", "trl_pairs": "trl-lib/rlaif-v"}
_HUB_NAME = re.compile(r"\w[\w.\-]*/\w[\w.\-]*")
_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_LICENCE = (
    "Weights inherit the licences of the parent checkpoint, of the labeler, and of the images and questions "
    "that the pairs were made of. The "
    "published RLAIF-V dataset is CC BY-NC 4.0: what was trained on it is not for commercial use."
)


@dataclass(frozen=True)
class Provenance:
    """What all checkpoints of a training have in common.

    Attributes:
        base_model: The name on the model hub of the checkpoint that the training started from, or of the one
            that was trained from; None if nobody knows.
        datasets: Names on the hub of published pairs that were trained on.
        facts: (what, value) in the order in which the card shows them.
        parameters: Names with dots -> values.
    """

    base_model: str | None
    datasets: Sequence[str]
    facts: Sequence[tuple[str, str]]
    parameters: Mapping[str, Any]


def provenance(
    policy: Path,
    fingerprint: Mapping[str, str],
    pairs: int,
    iteration: int,
    seed: int,
    parameters: Mapping[str, Any],
    **facts: Any,
) -> Provenance:
    """Gather what is known about a training.

    Args:
        policy: Folder of the checkpoint it started from.
        fingerprint: See :func:`rlaifv_kedro.preference.reference.fingerprint`.
        pairs: How many it was trained on.
        seed: The run's.
        parameters: Of the training, as JSON holds them.
        facts: What else is worth a line, by its name with underscores.
    """
    commit, dirty = git_state(Path(__file__).parent)
    in_git = f"git commit {commit}{', with changes' * bool(dirty)}"
    code = "not in a git repository" if commit is None else in_git
    packages = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    used = [name for name, source in parameters.get("mix", {}).items() if source["weight"] > 0]
    lines = [
        ("iteration", str(iteration)),
        ("parent checkpoint", f"`{parent_name(policy)}`, sha256 `{fingerprint['model']}`"),
        ("preference pairs", f"{pairs:,}, sha256 `{fingerprint['data']}`"),
        ("chat template", f"sha256 `{fingerprint['template']}`"),
        ("computed in", fingerprint["dtype"]),
        ("seed", str(seed)),
        *((in_words(name), str(value)) for name, value in facts.items()),
        ("code", code),
        ("packages", packages),
    ]
    return Provenance(
        _base_model(policy),
        [_DATASETS[name] for name in used if name in _DATASETS],
        lines,
        flatten(parameters),
    )


def parent_name(policy: Path) -> str:
    """How a card calls a checkpoint.

    That is its name on the model hub, its catalog path without the run id, or its folder's name.
    """
    hub = _hub_name(policy)
    if hub is not None:
        return hub
    versioned = policy.parent.parent
    place = versioned if versioned.name == policy.name else policy
    return place.relative_to(Path.cwd()).as_posix() if place.is_relative_to(Path.cwd()) else place.name


def model_card(
    origin: Provenance, checkpoint: Mapping[str, Any], log: pd.DataFrame, first_step: int, adapters: bool
) -> str:
    """The card of a checkpoint that hasn't been measured yet.

    It is Markdown with YAML in front, as the model hub reads it.

    Args:
        checkpoint: ``path``, ``step`` and ``epoch``.
        log: The ``training_log`` table.
        first_step: The first step after the checkpoint before this one.
        adapters: Whether the weights are LoRA adapters.
    """
    step = int(checkpoint["step"])
    front: dict[str, Any] = {
        "license": "other",
        "license_name": "inherited",
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["rlaif-v", "dpo", "hallucination"],
    }
    if origin.base_model is not None:
        front["base_model"] = origin.base_model
    if origin.datasets:
        front["datasets"] = list(origin.datasets)
    logged = log[log["step"].between(first_step, step)]
    figures = _TRAINING if len(logged) else ()
    rows = [(in_words(name), number(logged[name].iloc[-1]), number(logged[name].mean())) for name in figures]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
            f"# {Path(checkpoint['path']).name}: step {step}, epoch {checkpoint['epoch']:.2f}\n",
            f"{'LoRA adapters for a' if adapters else 'A'} multimodal LLM, trained with preference pairs as "
            "in RLAIF-V (arXiv 2405.17220), by",
            f"`rlaifv_kedro`. {_LICENCE}\n",
            "## Where it comes from\n",
            _table(("", ""), origin.facts),
            "\n## Training\n",
            _table(("", f"at step {step}", f"mean of steps {first_step} to {step}"), rows),
            "",
            _table(
                ("parameter", "value"),
                [(f"`training.{name}`", f"`{value}`") for name, value in origin.parameters.items()],
            ),
            f"{_MEASURED}Not yet.\n",
        ]
    )


def write_cards(
    folder: Path, checkpoints: Sequence[Mapping[str, Any]], log: pd.DataFrame, origin: Provenance
) -> None:
    """Put a card beside each checkpoint of a training, in the place of the one that peft writes.

    A set that was complete before keeps its cards, which may say by now what was measured.

    Args:
        folder: That of the checkpoints.
        checkpoints: In order: ``path`` (relative to the folder, or in it), ``step``, ``epoch``.
        log: The ``training_log`` table.
    """
    if (folder / MARKER).is_file() or (folder / REMOVED).is_file():
        return
    before = 0
    for checkpoint in checkpoints:
        path = folder / checkpoint["path"]
        card = model_card(origin, checkpoint, log, before + 1, adapters=CheckpointFolder(path).is_adapter)
        write_card(path, card)
        before = int(checkpoint["step"])


def measured_card(
    card: str, name: str, metrics: pd.DataFrame, selection: Mapping[str, Any], references: Mapping[str, str]
) -> str:
    """The card with what was measured, in the place of what stood there.

    Args:
        name: Of the checkpoint, in ``metrics``.
        metrics: The ``checkpoint_metrics`` table.
        selection: See :func:`rlaifv_kedro.preference.selection.choose`.
        references: Names of other policies in ``metrics`` that it is compared with -> how the card calls
            them.
    """
    tables = {row: part.set_index("metric") for row, part in metrics.groupby("checkpoint")}
    mine = tables[name]
    rows = [
        (in_words(metric), *(cell(metric, tables[row].loc[metric]) for row in (name, *references)))
        for metric in mine.index
    ]
    lines = [
        f"On the {selection['split']} split, {int(mine.loc['mean_words', 'n']):,} answers. "
        f"{mine['protocol'].iloc[0]}. Value ± one standard error; "
        "shares in percent.",
        "",
        _table(("", "this checkpoint", *references.values()), rows),
    ]
    if selection["selected"] == name:
        lines += ["", f"Chosen of its training's checkpoints by {in_words(selection['criterion'])}."]
    if "warning" in selection:
        lines += ["", f"**{selection['warning']}**"]
    if name in selection["collapsed"]:
        lines += ["", f"**Collapsed**: {'; '.join(selection['collapsed'][name])}."]
    return card.partition(_MEASURED)[0] + _MEASURED + "\n".join(lines) + "\n"


def _base_model(policy: Path) -> str | None:
    """The name on the model hub, from where the folder lies or else from its own card."""
    hub = _hub_name(policy)
    if hub is not None:
        return hub.partition("@")[0]
    card = (policy / CARD).read_text(encoding="utf-8", errors="replace") if (policy / CARD).is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        named = (yaml.safe_load(front[1]) or {}).get("base_model") if front else None
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):  # it is someone else's
        return None
    return named if isinstance(named, str) and _HUB_NAME.fullmatch(named) else None


def _hub_name(policy: Path) -> str | None:
    """``owner/name@revision`` of a folder in the model hub's cache."""
    match = _SNAPSHOT.fullmatch(policy.parents[1].name) if policy.parent.name == "snapshots" else None
    return f"{match['owner']}/{match['name']}@{policy.name}" if match else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
