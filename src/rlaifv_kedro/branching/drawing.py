"""Drawing tokens: every sample has a random stream of its own."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class SamplingSettings:
    """How samples are drawn, and when they end.

    Attributes:
        temperature: 0 is greedy.
        max_new_tokens: Most tokens of a sample.
        pad: Token id that fills up; no sample depends on it.
        stop: Token ids that end a sample.
        suppress: Token ids that are never drawn.
        top_p: Above 0. Below 1 only the likeliest tokens are drawn, as few as hold this much of the tempered
            probability (nucleus sampling).
        top_k: Only so many of the likeliest tokens are drawn, before ``top_p``; None for all.
        repetition_penalty: Of tokens that the sample has already, positive logits are divided and negative
            ones multiplied by it, before the temperature (arXiv 1909.05858); 1 for none. The prompt's tokens
            don't count: the release generates from embeddings, where transformers' ``generate`` knows the
            answer's tokens only.
    """

    temperature: float
    max_new_tokens: int
    pad: int
    stop: Collection[int]
    suppress: Collection[int] = ()
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0


class TokenChooser:
    """Draws the tokens of many samples from their logits.

    Token t of a sample is where the tempered probabilities, cumulated, pass the t-th uniform number of
    ``default_rng(seed)``: a sample depends on its prompt and seed, not on the batch.

    Args:
        uniforms: float64 (rows, samples, steps), one number a token.
    """

    def __init__(self, settings: SamplingSettings, uniforms: torch.Tensor):
        self.settings, self.uniforms = settings, uniforms
        self._suppress = sorted(settings.suppress)

    @classmethod
    def by_seeds(
        cls, settings: SamplingSettings, seeds: Sequence[Sequence[int]], device: torch.device
    ) -> "TokenChooser":
        """With one seed a sample; rows may have different numbers of samples."""
        uniforms = np.zeros((len(seeds), max(map(len, seeds)), settings.max_new_tokens))
        for i, row in enumerate(seeds):
            for k, seed in enumerate(row):
                uniforms[i, k] = np.random.default_rng(seed).random(settings.max_new_tokens)
        return cls(settings, torch.from_numpy(uniforms).to(device))

    @property
    def samples(self) -> int:
        """Most samples of a row."""
        return self.uniforms.shape[1]

    def of_rows(self, rows: list[int]) -> "TokenChooser":
        """The same for some of the rows."""
        return TokenChooser(self.settings, self.uniforms[rows])

    def of_samples(self, row: int, samples: list[int]) -> "TokenChooser":
        """The same for some of a row's samples, each as a row with one sample."""
        return TokenChooser(self.settings, self.uniforms[row, samples][:, None])

    def __call__(self, logits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The next token of every sample, int64 (rows, samples).

        Args:
            logits: (rows, samples, vocabulary).
            drawn: The samples' tokens so far, int64 (rows, samples, steps).
        """
        # Rows that were added to LLaVA's vocabulary are cut off already.
        suppress = self._suppress[: bisect_left(self._suppress, logits.shape[-1])]
        if suppress:
            logits = logits.index_fill(-1, torch.tensor(suppress, device=logits.device), -torch.inf)
        if self.settings.repetition_penalty != 1:
            # A sample that has ended goes on with padding, which may lie outside the vocabulary.
            seen = drawn.clamp(max=logits.shape[-1] - 1)
            logits = penalised(logits, seen, self.settings.repetition_penalty)
        return pick(logits, self.uniforms[..., drawn.shape[-1]], self.settings)


def draw(
    first: torch.Tensor,
    finished: torch.Tensor,
    following: Callable[[torch.Tensor, int], torch.Tensor],
    choose: TokenChooser,
) -> torch.Tensor:
    """Tokens of all samples of all rows, until all have ended: int64 (rows, samples, at most steps).

    Args:
        first: Logits of the first token, (rows, samples, vocabulary).
        finished: Samples that draw nothing, bool (rows, samples).
        following: Of the tokens drawn last, int64 (rows, samples), and how many steps were before: the logits
            after them, (rows, samples, vocabulary).
    """
    settings, logits = choose.settings, first
    stops = torch.tensor(sorted(settings.stop), device=first.device)
    drawn = torch.zeros(*finished.shape, 0, dtype=torch.int64, device=first.device)
    for step in range(settings.max_new_tokens):
        token = torch.where(finished, settings.pad, choose(logits, drawn))  # (rows, samples)
        drawn = torch.cat([drawn, token[..., None]], dim=-1)
        finished = finished | torch.isin(token, stops)
        if step + 1 == settings.max_new_tokens or bool(finished.all()):
            break
        logits = following(token, step)
    return drawn


def penalised(logits: torch.Tensor, drawn: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits with a repetition penalty; see :class:`SamplingSettings`.

    Args:
        logits: (..., vocabulary).
        drawn: The tokens that count as repeated, int64 (..., any number).
    """
    theirs = logits.gather(-1, drawn)  # (..., any number)
    return logits.scatter(-1, drawn, torch.where(theirs < 0, theirs * penalty, theirs / penalty))


def pick(logits: torch.Tensor, uniforms: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """One token a row: greedy at temperature 0, else where the cumulated probabilities pass a uniform number.

    Args:
        logits: (..., vocabulary).
        uniforms: float64 (...), one a row.
        settings: Their temperature, ``top_k`` and ``top_p`` count.
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    if settings.top_k is not None:
        # As in transformers, tokens that are as likely as the last of them stay too: ties have no order.
        least = logits.topk(min(settings.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probs, top_p = (logits.float() / settings.temperature).softmax(-1), settings.top_p
    cumulated = (probs if top_p >= 1 else _nucleus(probs, top_p)).cumsum(-1, dtype=torch.float64)
    # The scale keeps a number near 1 inside the last token even if rounding leaves the sum a little below 1.
    found = torch.searchsorted(cumulated, (uniforms * cumulated[..., -1])[..., None], right=True)
    return found.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities, with 0 for tokens before which, in falling order, ``top_p`` is reached.

    Of equal ones the lower id comes first.
    """
    falling, order = probs.sort(dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1, dtype=torch.float64) - falling
    return torch.zeros_like(probs).scatter(-1, order, falling.masked_fill(before >= top_p, 0))


def until_stop(ids: list[int], stop: Collection[int]) -> list[int]:
    """A sample's tokens up to the first that ends it, which is included."""
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in stop), ids)
