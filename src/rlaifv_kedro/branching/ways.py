"""Which way a model is computed: packed, with its prefix's state copied, or each branch by itself.

The last two are for models whose attention or positions can't be packed.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from rlaifv_kedro.branching.attention import NAME, use_branch_attention
from rlaifv_kedro.branching.copied import copied_log_probs, copied_next_logits
from rlaifv_kedro.branching.family import (
    has_mrope,
    name_of_type_ids,
    prompt_sees_ahead,
    rope_index,
    unwrapped,
)
from rlaifv_kedro.branching.pack import Pack, collate
from rlaifv_kedro.branching.packed import packed_log_probs
from rlaifv_kedro.branching.separate import images_of_packs, separate_log_probs, separate_next_logits
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.transformers_private import attention_of, is_stateful

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Way = Literal["packed", "copied", "separate"]
_ATTENTION_WITH_MASKS = ("sdpa", "eager", NAME)
# What a model's code may trip over that isn't made for a 4-D mask, or for going on from a cache.
_FAILURES = (ValueError, TypeError, RuntimeError, IndexError, AttributeError, KeyError, ImportError)
logger = logging.getLogger(__name__)


def choose_way(model: torch.nn.Module) -> Way:
    """How this model is computed.

    Decided at the first call, and kept on the model. If it isn't packed, the log says why.

    Raises:
        UserError: No way gives right numbers.
    """
    base = unwrapped(model)
    chosen = base.__dict__.get("_branching_way")
    if chosen is None:
        reason = why_not_packed(base)
        if reason is None:
            chosen = "packed"
            use_branch_attention(base)
        elif _copies(base, _words(base)[:8], {}):
            chosen = "copied"
            logger.info(
                "%s: %s, so the state of a prefix is copied to its branches (training computes it for each)",
                type(base).__name__,
                reason,
            )
        else:
            chosen = "separate"
            _say_slow(base, reason)
        base._branching_way = chosen
    return chosen


def way_of(
    model: torch.nn.Module,
    packs: Callable[[], Sequence[Pack]],
    longest: int,
    inputs: dict[str, Any],
    in_prompts: bool = False,
) -> Way:
    """How these packs are computed; what :func:`choose_way` says may not do for them.

    Before states are copied for the first packs with images, without, or beyond a sliding window, a trial is
    made with one of them.

    Args:
        packs: Gives them; asked for the trial only.
        longest: Tokens of the longest sequence: a prefix, one branch, and what will follow.
        inputs: Images of the packs.
        in_prompts: The branches are the ends of prompts, as questions are; otherwise they are answers.
    """
    chosen, window = choose_way(model), longest_packed(model)
    beyond = window is not None and longest > window
    if chosen == "packed" and not beyond:
        return "packed"
    if chosen == "separate" or torch.is_grad_enabled() or (in_prompts and prompt_sees_ahead(model)):
        return "separate"
    base = unwrapped(model)
    tried: dict[tuple[bool, bool], bool] = base.__dict__.setdefault("_copying_tried", {})
    kind = (bool(inputs), beyond)
    if kind not in tried:
        given = packs()
        number = max(range(len(given)), key=lambda i: len(given[i].prefix))
        tried[kind] = _copies(base, given[number].prefix, images_of_packs(inputs, len(given))[number])
        if not tried[kind]:
            what = f"{len(given[number].prefix)} tokens{' with an image' * bool(inputs)}"
            _say_slow(base, f"a trial shows that its state after {what} can't be copied")
    return "copied" if tried[kind] else "separate"


def _say_slow(model: "PreTrainedModel", reason: str) -> None:
    logger.warning(
        "%s: %s, so its prefix is computed again for every branch: right, but many times slower",
        type(model).__name__,
        reason,
    )


def longest_packed(model: torch.nn.Module) -> int | None:
    """Most tokens of a prefix with one branch that may be packed: the sliding window, or None for any."""
    text = unwrapped(model).config.get_text_config()
    has_window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return text.sliding_window if has_window else None


def refuse_unsupported(kind: "type[PreTrainedModel]", config: "PreTrainedConfig") -> None:
    """Refuses a class of models that no way would compute rightly; no weights are needed to know.

    Raises:
        UserError: The class reads an image in a way that separate sequences of ours would get wrong too.
    """
    accepted = inspect.signature(kind.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or "cross_attention_mask" in accepted:
        raise UserError(
            f"{kind.__name__} reads images by cross-attention or an encoder; only decoders with image tokens "
            "are supported."
        )
    known = name_of_type_ids(accepted)
    unknown = [name for name in accepted if name.endswith("token_type_ids") and name != known]
    if unknown and hasattr(config, "vision_config"):
        raise UserError(
            f"{kind.__name__} wants {unknown[0]}, which this project doesn't know how to make. Choose "
            "another model."
        )


def why_not_packed(model: "PreTrainedModel") -> str | None:
    """Why a packed sequence would get this model wrong, or None.

    Raises:
        UserError: It reads its image in a way that separate sequences of ours would get wrong too.
    """
    config, text = model.config, model.config.get_text_config()
    accepted = inspect.signature(model.forward).parameters
    refuse_unsupported(type(model), config)
    # The second is GPT-Neo's name.
    layers = set(getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or ())
    if is_stateful(model) or layers - {"full_attention", "sliding_attention", "global"}:
        return "it has layers with a recurrent state, or attention by chunks or to the last tokens by index"
    if has_mrope(model):
        if rope_index(model) is None:
            return "it uses multimodal rotary positions (M-RoPE) and doesn't say how to compute them"
    elif name_of_type_ids(accepted) is not None and hasattr(config, "vision_config"):
        return "its prompt tokens attend in both directions"
    elif "position_ids" not in accepted:
        return "its positions can't be given"
    if attention_of(text) not in _ATTENTION_WITH_MASKS:
        return f"its attention {attention_of(text)!r} takes no mask (attn_implementation: sdpa does)"
    if not _probe(model):
        return "a trial shows that it doesn't follow the mask and the positions it is given"
    return None


@torch.no_grad()
def _probe(model: "PreTrainedModel") -> bool:
    """Whether a packed text gets the log-probs of separate sequences.

    For families that the rules above don't know, e.g. with ALiBi positions.
    """
    ids = _words(model)
    packed = collate([Pack(ids[:8], [ids[8:16], ids[16:]])], pad=ids[0]).to(model.device)
    with _evaluating(model):
        expected = separate_log_probs(model, packed).tokens
        return _close(model, lambda: packed_log_probs(model, packed).tokens - expected)


@torch.no_grad()
def _copies(model: "PreTrainedModel", prefix: list[int], inputs: dict[str, Any]) -> bool:
    """Whether branches over copies of a prefix's state get the numbers of separate sequences.

    transformers' caches know many kinds of layers, and not every model continues from all of them.

    Args:
        inputs: The prefix's image.
    """
    if rope_index(model) is None and hasattr(getattr(model, "model", model), "rope_deltas"):
        return False  # what it adds to positions is that of its last image, also after another prefix
    ids = _words(model)
    packed = collate([Pack(prefix, [ids[8:16], ids[16:21], ids[21:22]])], pad=ids[0]).to(model.device)

    def of_answers() -> torch.Tensor:
        expected = separate_log_probs(model, packed, **inputs).tokens
        return copied_log_probs(model, packed, None, **inputs).tokens - expected

    def of_next() -> torch.Tensor:
        expected = separate_next_logits(model, packed, **inputs).softmax(-1)
        return copied_next_logits(model, packed, None, **inputs).softmax(-1) - expected

    with _evaluating(model):
        return _close(model, of_answers) and (prompt_sees_ahead(model) or _close(model, of_next))


def _words(model: "PreTrainedModel") -> list[int]:
    """24 token ids that stand for no image."""
    special = {
        getattr(model.config, name, None)
        for name in ("image_token_id", "image_token_index", "video_token_id")
    }
    text = model.config.get_text_config()
    words = [
        i for i in range(5, getattr(text, "original_vocab_size", None) or text.vocab_size) if i not in special
    ]
    return [words[(7 * k + k * k) % len(words)] for k in range(24)]


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    """Dropout would look like a difference."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _close(model: "PreTrainedModel", difference: Callable[[], torch.Tensor]) -> bool:
    """Whether a difference is no more than rounding, and can be computed at all."""
    try:
        largest = float(difference().abs().max())
    except torch.OutOfMemoryError:
        raise
    except _FAILURES:
        return False
    exact = model.dtype in (torch.float32, torch.float64)
    return largest < (1e-3 if exact else 0.5)
