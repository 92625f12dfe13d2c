"""Pydantic's errors as people read them, and what parameters were called earlier."""

from copy import deepcopy
from difflib import get_close_matches
from typing import Any, get_origin

from pydantic import BaseModel

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
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if name in RENAMED:
        return f"{name}: is called {RENAMED[name]} now"
    if problem["type"] == "extra_forbidden":
        known = _fields(path[:-1], root)
        near = get_close_matches(path[-1], known, n=1)
        return f"{name}: unknown parameter; " + (
            f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        )
    allowed = _allowed(path, root)
    return f"{name}={problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}" + (
        f" (allowed: {allowed})" if allowed else ""
    )


def with_new_names(parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested parameters in which renamed ones have their new names."""
    renamed = deepcopy(parameters)
    for old, new in RENAMED.items():
        *groups, name = old.split(".")
        group: Any = renamed
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        if isinstance(group, dict) and name in group:
            group[new.rpartition(".")[2]] = group.pop(name)
    return renamed


def _allowed(path: list[str], root: type[BaseModel]) -> str:
    """The range of a field, as people write it; empty if the type alone says it."""
    model = _model_of(path[:-1], root)
    field = model.model_fields.get(path[-1]) if model else None
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name)}"
        for m in (field.metadata if field else ())
        for name, sign in signs.items()
        if hasattr(m, name)
    ]
    return " and ".join(bounds)


def _fields(path: list[str], root: type[BaseModel]) -> list[str]:
    """Names of the parameters under a path."""
    model = _model_of(path, root)
    return list(model.model_fields) if model else []


def _model_of(path: list[str], root: type[BaseModel]) -> type[BaseModel] | None:
    """The model that a path of field names leads to; None if it leads into something else, such as a list."""
    model = root
    parts = iter(path)
    for part in parts:
        if part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
        if get_origin(annotation) is dict:
            next(parts, None)  # the key, which is the user's own
        models = [
            c
            for c in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(c, type) and issubclass(c, BaseModel)
        ]
        if not models:
            return None
        model = models[0]
    return model
