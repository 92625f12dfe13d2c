"""What goes wrong when weights are loaded."""

from collections.abc import Mapping
from typing import Any


def loading_errors() -> tuple[type[Exception], ...]:
    """What torch, transformers, peft and safetensors raise for files that are missing or damaged."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    return OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError, SafetensorError


def refuse_missing_weights(loaded: Mapping[str, Any]) -> None:
    """Stop where transformers only warns, and fills what is missing with random numbers.

    Args:
        loaded: What ``from_pretrained`` tells with ``output_loading_info``.

    Raises:
        ValueError: Names of weights that are missing.
    """
    if loaded["missing_keys"]:
        raise ValueError(f"the weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
