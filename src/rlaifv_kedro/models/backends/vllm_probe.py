"""Whether vLLM computes what transformers computes of the same weights, asked before any work.

It might not: another chat template or beginning of a sequence, another number of tokens of a picture, a
picture prepared otherwise, weights under names that are left at random. So one picture with two questions (of
a text LLM two chats) is asked of both: every id of the prompt after expansion must be the same, and the
probabilities of the reply's likeliest first tokens within :data:`TOLERANCES`.

The weights are loaded here for that, once a checkpoint, before the servers start; the numbers are kept in the
run's folder, so that a resumed run need not do it again.
"""

import gc
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching import Pack, collate, next_token_probs
from rlaifv_kedro.branching.pack import shared_length
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import files_of, json_value, shown, write_atomically
from rlaifv_kedro.models.backends.transformers import batched
from rlaifv_kedro.models.backends.vllm_requests import TokenPrompt, TokenServers, first_place, probs_of
from rlaifv_kedro.models.loading import Loading, load_model
from rlaifv_kedro.software import package_versions

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

    from rlaifv_kedro.models.backends.text_encoding import TextEncoder
    from rlaifv_kedro.models.encoding import ChatEncoder

log = logging.getLogger(__name__)

TOLERANCES = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.08}
"""By dtype, how far a probability may differ. Sums in float32 agree to 1e-6 (tried); 16 bits leave a logit of
20 an error of 0.008 and 0.06, and a probability of 0.5 a quarter of that for each of the two sides."""
QUESTIONS = ("Is there a red square in the picture?", "What is in the picture?")
CHATS = tuple([{"role": "user", "content": question}] for question in QUESTIONS)
MOST = 5
"""Likeliest first tokens that are compared, of each question."""
MEMORY = "probe.json"
"""File with what transformers made of the trial questions."""
_REMEDY = "Take a vLLM that docs/serving.md names, or backend: transformers for this model."


@dataclass(frozen=True)
class Expected:
    """What transformers makes of a trial question.

    Attributes:
        ids: The prompt's, with the picture's own.
        probs: p(token) of the likeliest first tokens of the reply, as (token, p).
    """

    ids: list[int]
    probs: list[tuple[int, float]]


def trial_picture() -> "Image":
    """A picture with a pattern, not square, in colours that differ: what is prepared otherwise shows."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:240, 0:320]
    pixels = np.stack([x * 255 // 319, y * 255 // 239, (x // 40 + y // 40) % 2 * 200], -1)
    pixels[60:180, 100:220] = (220, 30, 30)
    return Image.fromarray(pixels.astype(np.uint8))


def expected_of_pictures(
    path: Path, loading: Loading, encoder: "ChatEncoder", memory: Path
) -> list[Expected]:
    """What transformers makes of the trial questions about the trial picture.

    Args:
        encoder: Writes the prompts that vLLM will get.
        memory: The folder where the numbers are kept.

    Raises:
        UserError: The weights can't be loaded.
    """
    picture = trial_picture()
    image = encoder.image(picture)
    prompts = encoder.prompts(list(QUESTIONS), image)

    def compute() -> list[Expected]:
        model = load_model(path, loading)
        inputs = batched([image] * len(prompts), next(model.module.parameters()).device)
        return _likeliest(model.module, prompts, encoder.pad_id, inputs)

    return _remembered(memory / MEMORY, path, loading, prompts, compute)


def expected_of_chats(path: Path, loading: Loading, encoder: "TextEncoder", memory: Path) -> list[Expected]:
    """What transformers makes of the trial chats; see :func:`expected_of_pictures`."""
    from rlaifv_kedro.models.backends.text import load_text_model

    prompts = [encoder.prompt(chat) for chat in CHATS]

    def compute() -> list[Expected]:
        return _likeliest(load_text_model(path, loading).module, prompts, encoder.pad_id, {})

    return _remembered(memory / MEMORY, path, loading, prompts, compute)


def refuse_others(
    requests: TokenServers, prompts: Sequence[TokenPrompt], expected: Sequence[Expected], dtype: str
) -> None:
    """Stop if vLLM makes something else of the trial prompts.

    Args:
        prompts: As they are sent.
        dtype: In which both compute.

    Raises:
        UserError: It does; the message has both.
    """
    for prompt, wanted in zip(prompts, expected, strict=True):
        _refuse_other(requests, prompt, wanted, TOLERANCES[dtype])


def _refuse_other(requests: TokenServers, prompt: TokenPrompt, wanted: Expected, tolerance: float) -> None:
    tokens = [token for token, _ in wanted.probs]
    ids, found = requests.expanded(prompt, first_place(tokens), lambda choice: probs_of(choice, tokens))
    if ids != wanted.ids:
        raise UserError(f"{requests.where}: {_first_difference(wanted.ids, ids)}. {_REMEDY}")
    token, p = max(wanted.probs, key=lambda pair: abs(found[pair[0]] - pair[1]))
    if not abs(found[token] - p) <= tolerance:
        raise UserError(
            f"{requests.where}: it computes something else than transformers of the same weights. A reply to "
            f"a trial question begins with token {token} with probability {p:.6f} by transformers and "
            f"{found[token]:.6f} by vLLM; they may differ by {tolerance:g}. {_REMEDY}"
        )


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two prompts differ, in words."""
    at = shared_length([ours, theirs])
    shown_ids = [list(ids[max(at - 2, 0) : at + 3]) for ids in (ours, theirs)]
    return (
        f"vLLM makes another prompt of a trial question, of {len(theirs)} tokens instead of {len(ours)}: "
        f"around place {at} it has the ids {shown_ids[1]}, and this project {shown_ids[0]}"
    )


def _likeliest(
    module: "PreTrainedModel", prompts: Sequence[list[int]], pad: int, inputs: "Mapping[str, torch.Tensor]"
) -> list[Expected]:
    """The likeliest first tokens after each prompt."""
    packed = collate([Pack(ids[:-1], [ids[-1:]]) for ids in prompts], pad)
    probs = next_token_probs(module, packed.to(next(module.parameters()).device), **inputs).float()
    best, tokens = probs.topk(min(MOST, probs.shape[-1]))  # both (prompts, MOST)
    return [
        Expected(ids, list(zip(row, own)))
        for ids, row, own in zip(prompts, tokens.tolist(), best.tolist(), strict=True)
    ]


def _kept(memory: Path) -> dict[str, list[dict[str, Any]]]:
    """What the file holds, by what it was computed of; a damaged one holds nothing."""
    try:
        return json_value(memory.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _remembered(
    memory: Path,
    path: Path,
    loading: Loading,
    prompts: Sequence[list[int]],
    compute: Callable[[], list[Expected]],
) -> list[Expected]:
    """What is kept of the same files, settings, packages and prompts, or what is computed now, and kept."""
    files = [
        (name, (path / name).stat().st_size, (path / name).stat().st_mtime_ns) for name in files_of(path)
    ]
    told = json.dumps([str(path), files, str(loading), package_versions(), prompts])
    key, known = sha256(told.encode()).hexdigest(), _kept(memory)
    if key not in known:
        log.info(
            "%s: what transformers makes of a trial question is computed, to compare vLLM with", shown(path)
        )
        known[key] = [asdict(expected) for expected in compute()]
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # the servers want it
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps(known).encode())
    return [Expected(own["ids"], [tuple(pair) for pair in own["probs"]]) for own in known[key]]
