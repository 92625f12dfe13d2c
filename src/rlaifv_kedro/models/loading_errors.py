"""The one place where what libraries raise about a checkpoint becomes this project's error."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line, first_of

logger = logging.getLogger(__name__)

_UNCLEAR = (KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError, AssertionError)
"""Errors whose text alone, such as ``'size'``, says nothing."""


@contextmanager
def checkpoint_errors(
    where: str | Path, trouble: str = "can't load the checkpoint", remedy: str = ""
) -> Iterator[None]:
    """Whatever a library raises inside becomes a message that names the checkpoint.

    Which errors torch, transformers, tokenizers, safetensors, peft and jinja raise for a damaged file is
    nowhere written, so all count. The tokenizers' code in Rust even raises what is no ``Exception``.

    Args:
        where: The folder or file, or whatever name the checkpoint has.
        trouble: What could not be done with it.
        remedy: What to do, where that isn't plain.

    Raises:
        UserError: For everything raised inside but interrupts; a UserError passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = f"{shown(where)}: {trouble}: {_reason(error)}"
        raise UserError(f"{said.removesuffix('.')}. {remedy}" if remedy else said) from error


def _reason(error: BaseException) -> str:
    """What a library's error says, and what to do where that is known."""
    from huggingface_hub.errors import StrictDataclassError

    said = first_line(error.__cause__ or error if isinstance(error, StrictDataclassError) else error)
    if isinstance(error, ImportError):  # families with a video part in their processor
        needed = f"it needs a package that isn't installed: {said.partition('. ')[0]}."
        if "torchvision" not in said.lower():
            return needed
        return f"{needed} pip install 'rlaifv_kedro[torchvision]', in the build that fits your torch."
    if any("weights_only" in text or "Weights only load" in text for text in _texts(error)):
        return (
            "a .bin file holds something other than weights, or is damaged; it was not run. Get the "
            "checkpoint's .safetensors, or convert it (torch.load, then safetensors.torch.save_file) where "
            "you trust it."
        )
    return f"{type(error).__name__}: {said}" if isinstance(error, _UNCLEAR) else said


def _texts(error: BaseException | None) -> Iterator[str]:
    """What an error and all that led to it say."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def refuse_wrong_names(loaded: Mapping[str, Any], where: str | Path) -> None:
    """Stop where transformers only warns: it fills what is missing with random numbers, and drops the rest.

    Left-over weights of a layer mean that the config describes a smaller model; others (a head that was
    trained for something else) are told and left out.

    Args:
        loaded: What ``from_pretrained`` tells with ``output_loading_info``.
        where: The folder.

    Raises:
        UserError: Names weights that are missing, or that config.json has no place for.
    """
    missing, left = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if missing:
        raise UserError(
            f"{shown(where)}: can't load the checkpoint: the weights lack {first_of(missing, 3)}. Fetch it "
            "again, with the config.json that belongs to it."
        )
    of_layers = [name for name in left if re.search(r"\.\d+\.", name)]
    if of_layers:
        raise UserError(
            f"{shown(where)}: can't load the checkpoint: the weights hold {first_of(of_layers, 3)}, for "
            "which config.json has no place. Fetch it again, with the config.json that belongs to it."
        )
    if left:
        logger.warning(
            "%s: left out are weights that the model has no place for: %s", shown(where), first_of(left, 3)
        )
