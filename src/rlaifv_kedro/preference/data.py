"""Preference pairs as training examples: a prompt's prefix with the chosen and the rejected answer as branches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch.utils.data import Dataset

from rlaifv_kedro.branching import Pack, collate
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image

if TYPE_CHECKING:
    from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage


@dataclass(frozen=True)
class PreferenceExample:
    """One pair: its index, encoded image and packed answers (branch 0 chosen, branch 1 rejected), and the reference's log-probs of both."""

    idx: int
    image: "EncodedImage"
    pack: Pack
    reference_chosen: float
    reference_rejected: float


class PreferenceDataset(Dataset):
    """Pairs with their reference log-probs, tokenised when asked for.

    Raises:
        UserError: A pair has no reference log-prob.
    """

    def __init__(self, pairs: pd.DataFrame, reference: pd.DataFrame, encoder: "ChatEncoder"):
        self.pairs = pairs.reset_index(drop=True)
        self.encoder = encoder
        aligned = reference.set_index("idx").reindex(self.pairs["idx"])
        if aligned["chosen"].isna().any():
            raise UserError(
                f"reference_log_probs has no row for pair idx {aligned.index[aligned['chosen'].isna()][0]}. Compute it again from these pairs."
            )
        self.reference = aligned[["chosen", "rejected"]].to_numpy(dtype=float)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> PreferenceExample:
        pair = self.pairs.iloc[row]
        image = self.encoder.image(open_image(pair["image"], f"preference pair idx {pair['idx']}"))
        prompt, answers = self.encoder.answers(pair["question"], [pair["chosen"], pair["rejected"]], image.tokens)
        return PreferenceExample(int(pair["idx"]), image, Pack(prompt, answers), *self.reference[row])


class PreferenceCollator:
    """Makes the batch that :class:`rlaifv_kedro.preference.trainer.PreferenceTrainer` takes."""

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, examples: list[PreferenceExample]) -> dict[str, Any]:
        images = [e.image.inputs for e in examples]
        packed = collate([e.pack for e in examples], self.pad)
        return {
            "input_ids": packed.input_ids,
            "attention_mask": packed.attention_mask,
            "position_ids": packed.position_ids,
            "segments": packed.segments,
            "prefix_lengths": torch.tensor(packed.prefix_lengths),
            "reference_chosen": torch.tensor([e.reference_chosen for e in examples], dtype=torch.float32),
            "reference_rejected": torch.tensor([e.reference_rejected for e in examples], dtype=torch.float32),
            **{name: torch.cat([i[name] for i in images]) for name in images[0]},
        }
