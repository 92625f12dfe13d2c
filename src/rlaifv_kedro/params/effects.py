"""What another value of each parameter changes: the result, or only how it is computed."""

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from rlaifv_kedro.params.base import Effect
from rlaifv_kedro.params.messages import models_in
from rlaifv_kedro.params.run import Parameters


def effect_of(name: str) -> Effect:
    """What another value of the parameter with this full name changes.

    The result, where backends of a model that have the parameter differ, or where there is none of that name.
    """
    found = {effect for known, effect in all_effects() if known == name}
    return found.pop() if len(found) == 1 else Effect.RESULT


def all_effects(root: type[BaseModel] = Parameters, group: str = "") -> Iterator[tuple[str, Effect]]:
    """(full name, what it changes) of every parameter; once for each backend of a model that has it."""
    for name, field in root.model_fields.items():
        keyed = get_origin(field.annotation) in (dict, list)  # the keys are the user's own
        groups = [] if keyed else models_in(field.annotation)
        for inner in groups:
            yield from all_effects(inner, f"{group}{name}.")
        if not groups or type(None) in get_args(field.annotation):
            mark = next((mark for mark in field.metadata if isinstance(mark, Effect)), Effect.RESULT)
            yield f"{group}{name}", mark
