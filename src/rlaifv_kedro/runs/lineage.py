"""Which runs may feed which: those of one recipe, seed, base policy and pool of prompts.

Artifacts of all recipes lie under the same paths, told apart by the run that wrote them. A stage run that
took whatever is newest would train a 7B on the miniature's pairs.
"""

import re

from pydantic import BaseModel, ConfigDict

BASE_RECIPE = "base"
"""The recipe of a run without an environment: the embedded default."""
ROOTS = {"base_policy": "base policy", "prompt_pool": "prompt_pool"}
"""Entries of the catalog that everything in a run grows from, with how they are called in messages."""
GROWN = re.compile(r"(iteration_\d+|base|benchmark)\.")
"""How entries that have grown from the roots are called; all others come before them, or from elsewhere."""


class Lineage(BaseModel):
    """What a run's artifacts have grown from; None where it is not known.

    Attributes:
        recipe: The environment, a folder of ``conf/``.
        seed: Of the run.
        base_policy, prompt_pool: sha256 of their content.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    seed: int | None = None
    base_policy: str | None = None
    prompt_pool: str | None = None

    def differences(self, other: "Lineage", roots: bool = True) -> list[str]:
        """How another lineage differs from this one, for people; empty if nothing that is known differs.

        Args:
            roots: Whether base policy and pool of prompts count. They don't for what comes before them.
        """
        said = [] if self.recipe == other.recipe else [f"its recipe is {other.recipe}"]
        if self.seed is not None and other.seed is not None and self.seed != other.seed:
            said.append(f"its seed is {other.seed}")
        for name, called in ROOTS.items() if roots else ():
            own, theirs = getattr(self, name), getattr(other, name)
            if own and theirs and own != theirs:
                said.append(f"it has another {called}")
        return said


def recipe_of(env: str | None) -> str:
    """The recipe of an environment; ``local`` is for what one machine sets, and is no recipe."""
    return BASE_RECIPE if env in (None, "local", BASE_RECIPE) else env
