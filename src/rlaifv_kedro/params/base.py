"""What all parameter models have in common: what another value changes, and who has read a value."""

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


Count = Annotated[int, Field(strict=True, ge=1)]


class Effect(Enum):
    """What another value of a parameter changes: the result, unless a mark says otherwise.

    The mark stands in the field's type: ``Annotated[Count, Effect.EXECUTION]``.
    """

    RESULT = "result"
    EXECUTION = "execution"
    """When, where and how fast the same is computed, to rounding; or when a run stops."""
    DIVISION = "division"
    """Into which parts a node divides its work: as EXECUTION, but the same from the node's first part to its
    last.
    """


class Params(BaseModel):
    """What all parameter models have in common: nothing unknown, nothing changed after it was checked."""

    __slots__ = ("_note",)  # no private attribute of pydantic's: models that differ in it alone are equal

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __getattribute__(self, name: str) -> Any:
        """As always; of a model of :func:`noting` what is read is noted."""
        if name == "model_fields":  # Kedro asks instances; pydantic's warning about that would name us
            return type(self).model_fields
        value = super().__getattribute__(name)
        note = note_of(self)
        if note is None:
            return value
        own, reads = note
        field = type(self).__pydantic_fields__.get(name)
        if name == "__dict__":  # through which models are compared, hashed, copied and written
            reads.add(own)
        elif field is not None and not (isinstance(value, Params) and field.annotation is type(value)):
            reads.add(f"{own}.{name}")  # also of a group that might be None or another: `is None` tells which
        return value


def note_of(params: Params) -> tuple[str, set[str]] | None:
    """What :func:`noting` has given a copy: its name and ``reads``; None for other parameters."""
    try:
        return object.__getattribute__(params, "_note")
    except AttributeError:
        return None


def noting(params: Params, name: str, reads: set[str]) -> Params:
    """A copy that adds to ``reads`` what is read of it: a parameter's full name, or that of a whole group.

    Args:
        name: The group's, such as ``training``.
    """
    groups = {field: value for field, value in vars(params).items() if isinstance(value, Params)}
    inner = {field: noting(value, f"{name}.{field}", reads) for field, value in groups.items()}
    copy = params.model_copy(update=inner)
    object.__setattr__(copy, "_note", (name, reads))
    return copy


def without_note(params: Params) -> Params:
    """The same, of which nothing is noted; to make it reads nothing."""
    values = object.__getattribute__(params, "__dict__")
    plain = {
        name: without_note(value) if isinstance(value, Params) else value for name, value in values.items()
    }
    return type(params).model_construct(params.model_fields_set, **plain)
