"""Pydantic's errors as people read them, and what parameters were called earlier."""

import re
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from rlaifv_kedro.params.models import (
    BACKENDS,
    BackendParams,
    backend_of,
    backends_with,
    without_defaults_of_others,
)
from rlaifv_kedro.redaction import MASK, redacted

# Earlier names of parameters. They are refused with the new name; manifests of earlier runs are read with it.
RENAMED = {
    "training.warmup_share": "training.warmup_ratio",
    "training.loader_workers": "training.dataloader_num_workers",
}


def explain(problem: dict[str, Any], root: type[BaseModel]) -> str:
    """One line for one of pydantic's errors: the parameter, what was given, and what is allowed.

    Args:
        root: The model in which the names count.
    """
    path, holder = _place(problem["loc"], root)
    name = ".".join(path)
    if name in RENAMED:
        return f"{name}: is called {RENAMED[name]} now"
    if problem["type"] == "extra_forbidden":
        return f"{name}: {_why_not_here(path, holder)}"
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{name}.backend={tag!r}: input should be one of {known}"
    if problem["type"] == "missing" and holder is not None:
        return f"{name} is missing: {holder.model_fields[path[-1]].description}"
    said, allowed = problem["msg"].removeprefix("Value error, "), _allowed(path[-1], holder) if path else ""
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        said += "; to YAML this is a number, true or false, so put it in quotes"
    given = redacted(repr(problem["input"]))
    if path and path[-1] == "url":  # a user and password without http:// before them
        given = re.sub(r"[^'/\s]*@", f"{MASK}@", given)
    return f"{name}={given}: {said[0].lower()}{said[1:]}" + (f" (allowed: {allowed})" if allowed else "")


def with_new_names(parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested parameters of an earlier version, as this one would record them.

    Renamed parameters have their new names, and models only what their backend has.
    """
    renamed = deepcopy(parameters)
    for old, new in RENAMED.items():
        *groups, name = old.split(".")
        group: Any = renamed
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        if isinstance(group, dict) and name in group:
            group[new.rpartition(".")[2]] = group.pop(name)
    for role, given in (renamed.get("models") or {}).items():
        if isinstance(given, dict) and backend_of(given) in BACKENDS:
            renamed["models"][role] = without_defaults_of_others(given, BACKENDS[backend_of(given)])
    return renamed


def _why_not_here(path: Sequence[str], holder: type[BaseModel] | None) -> str:
    """Why a parameter is unknown where it stands: it is another backend's, or misspelt."""
    *parents, last = path
    having = backends_with(last) if holder is not None and issubclass(holder, BackendParams) else []
    if having:
        where = ".".join([*parents, "backend"])
        one = f"only backend: {having[0]} has it"
        who = one if len(having) == 1 else f"only the backends {' and '.join(having)} have it"
        return (
            f"{who}; set {where}={having[0]}, or leave it out (where a recipe sets it: {'.'.join(path)}=null)"
        )
    known = list(holder.model_fields) if holder else []
    near = get_close_matches(last, known, n=1)
    known_here = (
        f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"known here: {', '.join(known)}"
    )
    return f"unknown parameter; {known_here}"


def _allowed(name: str, holder: type[BaseModel] | None) -> str:
    """The range of a field, as people write it; empty if the type alone says it."""
    field = holder.model_fields.get(name) if holder else None
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name)}"
        for m in (field.metadata if field else ())
        for name, sign in signs.items()
        if hasattr(m, name)
    ]
    return " and ".join(bounds)


def _place(location: Sequence[str | int], root: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Where one of pydantic's errors is.

    Returns:
        The names as people write them, without the names of backends that pydantic puts between them; and
        the model that the last name stands in, None if that is a list or a dict.
    """
    names: list[str] = []
    holder: type[BaseModel] | None = None
    annotation: Any = root
    for part in map(str, location):
        models = models_in(annotation)
        if len(models) > 1 and part in BACKENDS:
            annotation = BACKENDS[part]
            continue
        names.append(part)
        if get_origin(annotation) in (dict, list):  # the key is the user's own
            holder, annotation = None, get_args(annotation)[-1]
            continue
        holder = models[0] if models else None
        field = holder.model_fields.get(part) if holder else None
        annotation = field.annotation if field else None
    return names, holder


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]
