"""One way to compute for policy and reference, so that their log-ratio is 0 where a training starts.

Without DeepSpeed the weights that learn are float32 and autocast computes in the lower dtype. It rounds the
matrices of linear layers back to what they were; but embeddings, norms and the sums between the layers are
float32 then, which moves an answer of 9 tokens by 0.1 nats and more (docs/training.md).
"""

import functools
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.training.learning import Learning

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.transformers import TransformersModel
    from rlaifv_kedro.params import TrainingParams


def learns(module: torch.nn.Module, params: "TrainingParams") -> Learning:
    """What of a module learns; see :meth:`rlaifv_kedro.training.learning.Learning.of`."""
    return Learning.of([name for name, _ in module.named_parameters()], module.config.model_type, params)


def raise_to_float32(module: torch.nn.Module, names: frozenset[str]) -> None:
    """Make the weights with these names float32: in bfloat16 a step of 5e-7 would be rounded away."""
    for name, weight in module.named_parameters():
        if name in names:
            weight.data = weight.data.float()


def compute_as_training_does(model: "TransformersModel", params: "TrainingParams", dtype: str) -> None:
    """Let a model compute as the policy does at its first step, which is what its reference must do.

    DeepSpeed has the weights in ``dtype`` and computes without autocast: nothing is changed then.

    Args:
        model: Is changed.
        dtype: In which training computes; the model has been loaded in it.

    Raises:
        UserError: See :meth:`rlaifv_kedro.training.learning.Learning.of`.
    """
    learning = learns(model.module, params)
    if not params.autocast(dtype):
        return
    raise_to_float32(model.module, learning.whole)
    forward, lower = model.module.forward, getattr(torch, dtype)

    @functools.wraps(forward)
    def under_autocast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.module.device.type, lower):
            return forward(*args, **kwargs)

    model.module.forward = under_autocast
