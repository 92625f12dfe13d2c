"""A model whose logits are NaN or infinite is refused at its first forward pass."""

from typing import Any

import torch

from rlaifv_kedro.errors import UserError


def watch_numbers(module: torch.nn.Module, where: str) -> None:
    """Look at the logits of every forward pass without training, whoever asks for it; see :class:`_Watch`."""
    if not any(isinstance(hook, _Watch) for hook in module._forward_hooks.values()):
        module.register_forward_hook(_Watch(where))


def refuse_not_finite(module: torch.nn.Module, where: str, dtype: str | None = None) -> None:
    """Raise UserError that says why a model's numbers are not finite.

    Args:
        where: Names the checkpoint.
        dtype: In which it computes, if that is not its weights'.
    """
    damaged = next((name for name, p in module.named_parameters() if not p.detach().isfinite().all()), None)
    if damaged is not None:
        why = f"its weight {damaged} holds NaN or infinity. Fetch or train the checkpoint again."
    else:
        dtype = dtype or str(next(module.parameters()).dtype).removeprefix("torch.")
        # The others have float32's range.
        remedy = (
            "Set dtype under models.<role>, or compute.dtype, to bfloat16 or float32."
            if dtype == "float16"
            else "Copy its config.json and its processor's files anew from where it was published."
        )
        why = f"its weights are finite, so its activations overflow in {dtype}. {remedy}"
    raise UserError(f"{where}: the model's numbers are not finite: {why}")


class _Watch:
    """A forward hook that refuses logits with NaN or infinity, or with minus infinity for every token.

    Sampling would take such logits for a choice of tokens, and scores of them compare as false. Training
    looks at its loss instead.
    """

    def __init__(self, where: str):
        self.where = where

    def __call__(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if module.training or logits is None or not logits.numel():
            return
        if not logits.detach().amax(-1).isfinite().all():
            refuse_not_finite(module, self.where)
