"""Pairs for other tools.

What each of them reads is the datasets' business: rlaifv_kedro/datasets/export_formats.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.images import embed_image, portable_image
from rlaifv_kedro.schemas import table

DS_NAME = "rlaifv_kedro"


class PublishedRows:
    """Pairs as records of the published dataset's columns, each with its image's bytes.

    A picture that other programs would see otherwise than the policy did becomes a PNG of what it saw.

    Records are made when they are asked for, each time anew.
    """

    def __init__(self, pairs: pd.DataFrame | PairStore):
        self._pairs = pairs

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records, in order.

        Raises:
            UserError: An image is neither in the row nor in the file that it names, or is no picture.
        """
        for record in self._of_store() if isinstance(self._pairs, PairStore) else self._of_frame():
            where = f"pair idx {record['idx']}"
            yield {**record, "image": portable_image(embed_image(record["image"], None, where), where)}

    def _of_frame(self) -> Iterator[Mapping[str, Any]]:
        names = [name for name in table("preference_pairs").schema.names if name in self._pairs.columns]
        for row in self._pairs[names].itertuples(index=False, name=None):
            yield dict(zip(names, row))

    def _of_store(self) -> Iterator[Mapping[str, Any]]:
        for row, pair in enumerate(self._pairs):
            dataset, split = self._pairs.origin(row)
            texts = {"question": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
            origin = {"origin_dataset": dataset, "origin_split": split}
            yield {
                "ds_name": DS_NAME,
                "image": pair.image,
                **texts,
                **origin,
                "idx": pair.idx,
                "image_path": pair.image.get("path"),
            }
