"""Which weights of a policy learn: by their names, so that the same rules hold before weights are loaded."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_of

if TYPE_CHECKING:
    from rlaifv_kedro.params import TrainingParams

TOWERS = ("vision_tower", "visual", "vision_model", "vpm")
"""Names of vision towers: of LLaVA and OmniLMM, Qwen-VL, Idefics, MiniCPM-V."""

PROJECTORS = ("multi_modal_projector", "mm_projector", "resampler", "connector", "merger")
"""Names of what leads from the tower to the language model.

Of LLaVA and most others, LLaVA's original code, OmniLMM and MiniCPM-V, Idefics, Qwen-VL (within its tower).
"""

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a language model's block, which get adapters."""

# Where the language model's blocks lie: in OmniLMM beside the tower, in MiniCPM-V under "llm", in Idefics
# "text_model", elsewhere "language_model".
_LANGUAGE_MODELS = {
    "omnilmm": r"model\.layers",
    "minicpmv": r"llm\.model",
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "text_model"),
}
_SHOWN = 20


@dataclass(frozen=True)
class Learning:
    """What of a policy learns.

    Attributes:
        whole: Names of the weights that learn themselves; with adapters, the projector's.
        adapted: Pattern of the modules that get adapters; without adapters None.
        projectors: With adapters, names of the modules that learn beside them.
    """

    whole: frozenset[str]
    adapted: str | None = None
    projectors: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Collection[str], model_type: str, params: "TrainingParams") -> "Learning":
        """What the parameters of a training say of a model.

        Args:
            names: Of the model's weights, as they are in memory.

        Raises:
            UserError: A name of ``freeze`` is part of no weight's, or nothing is left to learn; no layer gets
                adapters, or one that is to stay as it is; or there is no projector to train beside them.
        """
        free = frozenset(names) - _frozen(names, params)
        if params.lora is None:
            if not free:
                raise UserError(
                    f"training.freeze={params.freeze} freezes the whole policy: nothing would learn. Leave "
                    "out what is part of every weight's name."
                )
            return cls(free)
        adapted = rf".*\b{_LANGUAGE_MODELS.get(model_type, 'language_model')}\..*\.({'|'.join(ADAPTED)})"
        layers = {name for name in names if re.fullmatch(adapted, name.removesuffix(".weight"))}
        if not layers:
            raise UserError(
                f"training.lora: a policy of the type {model_type!r} has no layer that gets adapters "
                f"({', '.join(ADAPTED)} of its language model). Leave training.lora out, or choose another "
                f"policy. Its weights: {modules(names)}."
            )
        if layers - free:
            raise UserError(
                f"training.freeze={params.freeze} names layers that get adapters, such as "
                f"{min(layers - free)}: training would change them. Leave the name out, or training.lora."
            )
        if not params.lora.projector:
            return cls(frozenset(), adapted)
        found = {name: place for name in names if (place := _projector(name)) is not None}
        if not found:
            raise UserError(
                "training.lora.projector: the policy has no module that is known as a projector "
                f"({', '.join(PROJECTORS)}). Set training.lora.projector=false to train the adapters alone. "
                f"Its weights: {modules(names)}."
            )
        # peft trains a module whole: a projector of which training.freeze names a part stays as it is.
        learning = set(found.values()) - {found[name] for name in found.keys() - free}
        whole = frozenset(name for name, place in found.items() if place in learning)
        return cls(whole, adapted, tuple(sorted(learning)))


def parts_to_freeze(params: "TrainingParams") -> Sequence[str]:
    """Parts of the names of weights that stay as they are."""
    return TOWERS if params.freeze is None else params.freeze


def _frozen(names: Collection[str], params: "TrainingParams") -> set[str]:
    """The weights that ``freeze`` names, or those of the vision tower.

    A name that fits nothing is refused: misspelt, it would leave the vision tower learning unnoticed.
    """
    parts = parts_to_freeze(params)
    strangers = [part for part in parts if not any(part in name for name in names)]
    if params.freeze is None:
        if len(strangers) == len(parts):
            raise UserError(
                f"the policy has no module that is known as a vision tower ({', '.join(TOWERS)}). Say which "
                "one stays as it is: training.freeze=[name], or [] to train all. Its weights: "
                f"{modules(names)}."
            )
    elif strangers:
        raise UserError(
            f"training.freeze: {', '.join(map(repr, strangers))} is part of no weight's name in the policy, "
            f"so that it would freeze nothing. Its weights: {modules(names)}."
        )
    return {name for name in names if any(part in name for part in parts)}


def _projector(name: str) -> str | None:
    """The projector that a weight belongs to, by its module's own name."""
    return next((part for part in name.split(".") if part in PROJECTORS), None)


def modules(names: Iterable[str]) -> str:
    """The modules of some weights with the number of weights in each, in short."""
    counts = Counter(_module(name) for name in names)
    return first_of([f"{module} ({count})" for module, count in counts.items()], _SHOWN)


def _module(name: str) -> str:
    """At most three levels of a weight's name: without its own, and up to the number of a layer."""
    levels = name.split(".")[:-1] or [name]
    number = next((i for i, level in enumerate(levels) if level.isdigit()), len(levels))
    return ".".join(levels[: min(number, 3)])
