"""Preference pairs as training examples.

A prompt's distinct answers are the branches of one prefix, and its pairs are pairs of branches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from rlaifv_kedro.branching import Pack, collate, pack
from rlaifv_kedro.datasets.pair_rows import PairRow
from rlaifv_kedro.datasets.pair_store import PairStore, PreferencePair
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image
from rlaifv_kedro.preference.weights import SUM, Reduction, TokenWeights, token_weights
from rlaifv_kedro.seeds import generator_for

if TYPE_CHECKING:
    from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage
    from rlaifv_kedro.params import TrainingParams


@dataclass(frozen=True)
class Truncation:
    """How pairs are cut; see :func:`rlaifv_kedro.branching.pack`. The model's context is a limit, too."""

    max_length: int | None = None
    side: Literal["right", "left"] = "right"

    @classmethod
    def of(cls, params: "TrainingParams") -> "Truncation":
        """As the parameters of a training ask for."""
        return cls(params.max_length, params.truncation)


@dataclass(frozen=True)
class PairPack:
    """One prompt's pack, with an image and pairs: each distinct answer is one branch.

    Attributes:
        pairs: (chosen, rejected) branches, in the order of the rows.
    """

    image: "EncodedImage"
    pack: Pack
    pairs: list[tuple[int, int]]


def distinct_answers(rows: Iterable[PreferencePair]) -> list[str]:
    """The answers of some pairs, each once."""
    return list(dict.fromkeys(text for row in rows for text in (row.chosen, row.rejected)))


def pack_pairs(
    rows: Sequence[PreferencePair], answers: list[str], encoder: "ChatEncoder", truncation: Truncation
) -> PairPack:
    """Pack pairs of one prompt.

    Args:
        rows: Pairs of one image and question.
        answers: Distinct answers of all of the prompt's pairs, also of those that are not packed here: how
            much a prompt is cut must not depend on which of its pairs happen to share a pack.

    Raises:
        UserError: The image can't be read, or the prompt leaves no room for an answer.
    """
    first = rows[0]
    image = encoder.image(open_image(first.image, f"preference pair idx {first.idx}"))
    try:
        whole = _packed(first.question, answers, image, encoder, truncation)
    except UserError as error:
        raise UserError(f"preference pair idx {first.idx}: {error.message}") from error
    used = distinct_answers(rows)
    packed = Pack(whole.prefix, [whole.branches[answers.index(text)] for text in used])
    return PairPack(image, packed, [(used.index(row.chosen), used.index(row.rejected)) for row in rows])


def fault_of_pair(
    pair: PairRow, size: tuple[int, int], encoder: "ChatEncoder", truncation: Truncation
) -> str | None:
    """Why a policy can't be trained on a pair, or None.

    Its texts are looked at as tokens, whose number and sameness don't depend on the other pairs of a prompt.

    Args:
        size: Width and height of its picture.
    """
    texts = {"question": pair.question, "chosen answer": pair.chosen, "rejected answer": pair.rejected}
    for name, text in texts.items():
        if not encoder.clean(text).strip():
            return f"the {name} is empty without words that stand for an image or the end of a turn"
    try:
        image = encoder.blank(size)
        whole = _packed(pair.question, [pair.chosen, pair.rejected], image, encoder, truncation)
    except UserError as error:
        return error.message
    if whole.branches[0] == whole.branches[1]:
        limit, called = _limit(encoder, truncation)
        cut = "" if limit is None else f", cut to {called}"
        return f"the chosen and the rejected answer are the same in the policy's tokens{cut}"
    return None


def _packed(
    question: str, answers: list[str], image: "EncodedImage", encoder: "ChatEncoder", truncation: Truncation
) -> Pack:
    """A prompt's answers as the branches of its pack.

    Raises:
        UserError: The prompt leaves no room for an answer, or an answer can't follow it.
    """
    prompt, branches = encoder.answers(question, answers, image)
    limit, called = _limit(encoder, truncation)
    try:
        return pack(prompt, branches, limit, truncation.side, encoder.end_of_image(prompt, image))
    except ValueError as error:
        raise UserError(
            f"its image and question have {len(prompt)} tokens, which leaves no room for an answer in "
            f"{called}."
        ) from error


def _limit(encoder: "ChatEncoder", truncation: Truncation) -> tuple[int | None, str]:
    """Most tokens of a prompt with an answer, and how that limit is called."""
    own, context = truncation.max_length, encoder.context
    if context is not None and (own is None or context < own):
        return context, f"the policy's context of {context} tokens"
    return own, f"training.max_length={own}"


def branches_of_pairs(packs: Sequence[PairPack]) -> torch.Tensor:
    """Each pair's chosen and rejected branch among those of all packs: int64 (pairs, 2)."""
    starts = np.cumsum([0, *(len(p.pack.branches) for p in packs)])
    return torch.tensor(
        [(start + c, start + r) for start, p in zip(starts, packs) for c, r in p.pairs], dtype=torch.int64
    )


def weights_of_pairs(packs: Sequence[PairPack], reduction: Reduction) -> TokenWeights | None:
    """The weights of the tokens of all pairs' answers; None for sums, which need none."""
    return token_weights([p.pack for p in packs], [p.pairs for p in packs], reduction)


@dataclass(frozen=True)
class PreferenceExample:
    """One pair with its prompt and the reference's log-probs of both its answers.

    Attributes:
        prompt: The prompt's number.
        answers: The prompt's distinct answers.
        reference_chosen, reference_rejected: As :mod:`rlaifv_kedro.preference.objective` reduces them.
    """

    pair: PreferencePair
    prompt: int
    answers: list[str]
    reference_chosen: float
    reference_rejected: float


class PreferenceDataset(Dataset):
    """Pairs with their reference log-probs. A pair's texts and image are read when it is asked for.

    Raises:
        UserError: A pair has no reference log-prob, or one that is no finite number.
    """

    def __init__(self, pairs: PairStore, reference: pd.DataFrame):
        self.pairs = pairs
        aligned = reference.set_index("idx").reindex(pairs.idx)
        for known, problem in (
            (aligned.index.isin(reference["idx"]), "has no row"),
            (np.isfinite(aligned["chosen"]) & np.isfinite(aligned["rejected"]), "has no finite numbers"),
        ):
            if not known.all():
                raise UserError(
                    f"reference_log_probs {problem} for pair idx {aligned.index[~known][0]}. "
                    "Compute it again from these pairs."
                )
        self.reference = aligned[["chosen", "rejected"]].to_numpy(dtype=float)
        self._by_prompt = pairs.by_prompt()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> PreferenceExample:
        prompt = int(self.pairs.prompts[row])
        return PreferenceExample(
            self.pairs[row], prompt, self.pairs.answers(self._by_prompt[prompt]), *self.reference[row]
        )


class PromptSampler(Sampler[int]):
    """All pairs in an order in which those of a prompt follow each other.

    It is another one each epoch, from (seed, epoch).
    """

    def __init__(self, prompts: np.ndarray, seed: int):
        self.prompts, self.seed, self.epoch = prompts, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[int]:
        rank = generator_for(self.seed, "epoch", self.epoch).permutation(self.prompts.max(initial=-1) + 1)
        return iter(np.argsort(rank[self.prompts], kind="stable").tolist())


class PreferenceCollator:
    """Makes the batch that :class:`rlaifv_kedro.training.trainer.PreferenceTrainer` takes.

    Args:
        merge: Pairs of one prompt share a pack; else each pair has its own.
        reduction: Of an answer's log-probs, the one of the reference.
    """

    def __init__(
        self, encoder: "ChatEncoder", truncation: Truncation, merge: bool, reduction: Reduction = SUM
    ):
        self.encoder, self.truncation, self.merge, self.reduction = encoder, truncation, merge, reduction

    def __call__(self, examples: list[PreferenceExample]) -> dict[str, Any]:
        """A batch of pairs.

        Returns:
            ``packed``, the packs. ``chosen`` and ``rejected``, each pair's branches among those of all packs,
            int64 (pairs,). ``reference_chosen`` and ``reference_rejected``, their reference log-probs,
            float32 (pairs,). ``images``, what the model takes for those of the packs. ``weights``, those of
            the answers' tokens, None for summed log-probs.
        """
        from rlaifv_kedro.models.backends.transformers import batched

        groups: dict[int, list[PreferenceExample]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(example.prompt if self.merge else i, []).append(example)
        packs = [
            pack_pairs([e.pair for e in group], group[0].answers, self.encoder, self.truncation)
            for group in groups.values()
        ]
        branches = branches_of_pairs(packs)
        ordered = [e for group in groups.values() for e in group]
        return {
            "packed": collate([p.pack for p in packs], self.encoder.pad_id),
            "chosen": branches[:, 0],
            "rejected": branches[:, 1],
            "reference_chosen": torch.tensor([e.reference_chosen for e in ordered], dtype=torch.float32),
            "reference_rejected": torch.tensor([e.reference_rejected for e in ordered], dtype=torch.float32),
            "images": batched([p.image for p in packs], "cpu"),
            "weights": weights_of_pairs(packs, self.reduction),
        }
