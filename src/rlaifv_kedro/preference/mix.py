"""The pairs to train on: drawn from one source or several, and each looked at before a model is loaded."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.datasets.pair_rows import PairRow
from rlaifv_kedro.datasets.pair_sources import FramePairs, PairSource
from rlaifv_kedro.datasets.pair_store import PairStore, with_keys
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import json_value
from rlaifv_kedro.formats import first_of
from rlaifv_kedro.images import embed_image, open_image
from rlaifv_kedro.params import MixSource
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import seed_for

logger = logging.getLogger(__name__)

Fault = Callable[[PairRow, tuple[int, int]], str | None]

_MOST_NAMED = 20


@dataclass(frozen=True)
class Mix:
    """Which rows of which sources are trained on, in the sources' order.

    Attributes:
        source: Position in ``names`` and ``sources``, int16 (pairs,).
        row: Row of that source, int64 (pairs,); a row that is used twice stands twice.
    """

    names: list[str]
    sources: list[PairSource]
    source: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


def make_mix(entries: Mapping[str, Any], params: Mapping[str, MixSource], seed: int) -> Mix:
    """Draw the rows.

    Args:
        entries: What the catalog's entries hold: a :class:`PairSource`, or a frame with the published
            columns.
        params: Weight and filter of each of them.
        seed: The run's.

    Raises:
        UserError: A filter names what isn't there, or nothing is left.
    """
    names = list(entries)
    sources = [e if isinstance(e, PairSource) else FramePairs(e, name) for name, e in entries.items()]
    drawn = [
        drawn_rows(matching_rows(source, params[name].where, name), params[name].weight, seed, name)
        for name, source in zip(names, sources)
    ]
    mix = Mix(
        names,
        sources,
        np.repeat(np.arange(len(names), dtype=np.int16), [len(rows) for rows in drawn]),
        np.concatenate(drawn),
    )
    if not len(mix):
        raise UserError(
            f"training.mix leaves no pair of {', '.join(names)}. Raise a weight, or look at the sources."
        )
    counts = ", ".join(
        f"{len(rows):,} of {name} ({len(source):,} rows)" for name, source, rows in zip(names, sources, drawn)
    )
    logger.info("Training on %s", counts)
    return mix


def matching_rows(source: PairSource, where: Mapping[str, Any], name: str) -> np.ndarray:
    """The rows that a filter of ``origin_split`` leaves: int64, ascending.

    ``origin_split`` is a JSON object, and must have one of the wanted values under each key of the filter.

    Values are compared as JSON writes them, and 1 is also "1". A row whose ``origin_split`` is no JSON object
    matches no filter.

    Raises:
        UserError: No row has such a key, or no row is left; the message holds the values that there are.
    """
    if not where:
        return np.arange(len(source))
    encoded = source.origin_split().dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    origins = [_origin(text) for text in [*encoded.dictionary.to_pylist(), None]]
    unreadable = int(np.isin(codes, [i for i, origin in enumerate(origins) if origin is None]).sum())
    keep = np.array([origin is not None for origin in origins])
    for key, wanted in where.items():
        place = f"training.mix.{name}.where.{key}"
        there = [_written(origin[key]) for origin in origins if origin is not None and key in origin]
        if not there:
            keys = sorted({key for origin in origins if origin is not None for key in origin})
            known = (
                f"the keys there are: {', '.join(keys)}"
                if keys
                else f"it is a JSON object in none of the {len(source):,} rows"
            )
            raise UserError(
                f"{place}: no row's origin_split has this key; {known}. Correct the filter, or leave it out."
            )
        values = {_written(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
        keep &= np.array(
            [origin is not None and key in origin and _written(origin[key]) in values for origin in origins]
        )
        if not keep[codes].any():
            listed = first_of(sorted(set(there)), _MOST_NAMED)
            raise UserError(
                f"{place} leaves no row. The values that there are: {listed}. Correct the filter."
            )
    if unreadable:
        logger.warning(
            "training.mix.%s: %d rows are left out, for their origin_split is no JSON object",
            name,
            unreadable,
        )
    return np.flatnonzero(keep[codes])


def _origin(text: str | None) -> dict[str, Any] | None:
    try:
        origin = json_value(text) if text else None
    except ValueError:
        return None
    return origin if isinstance(origin, dict) else None


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def drawn_rows(rows: np.ndarray, weight: float, seed: int, name: str) -> np.ndarray:
    """The rows as often as the weight says, ascending.

    Each row comes as often as the weight's whole part says, and a share of them, its fraction, once more.

    The share is the rows with the smallest draws, each by (seed, source, row); so which other sources there
    are, and batches, change nothing. ``interleave_datasets`` of the datasets library draws all sources by one
    generator, so another source, or its weight, would change the rows of the others.
    """
    times = np.full(len(rows), int(weight))
    more = round((weight - int(weight)) * len(rows))
    if more:
        draws = np.array([seed_for(seed, "mix", name, row) for row in rows.tolist()])
        times[np.argsort(draws, kind="stable")[:more]] += 1
    return np.repeat(rows, times)


def gather(mix: Mix, positions: Sequence[int], fault: Fault) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Some of the mix's pairs with their images' bytes, every image decoded to see that it can be.

    Args:
        positions: Where in the mix; they become the pairs' ``idx``.
        fault: Of a pair and its picture's (width, height): why it can't be used, or None.

    Returns:
        rejects and training_pairs; each position is in one of the two.
    """
    rejects: list[tuple[str, str, str]] = []
    pairs: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for number in np.unique(mix.source[positions]).tolist():
            name, source = mix.names[number], mix.sources[number]
            idx = [position for position in positions if mix.source[position] == number]
            rows = mix.row[idx].tolist()
            checked = pool.map(partial(_checked, source), rows, source.read(rows))
            for position, row, (pair, size) in zip(idx, rows, checked):
                # Not in the threads: a tokenizer is for one at a time.
                why = pair if isinstance(pair, str) else fault(pair, size)
                if why is None:
                    pairs.append({**vars(pair), "idx": position, "source": name, "source_idx": row})
                else:
                    rejects.append(("training", str(position), f"{source.where(row)}: {why}"))
    columns = [*PairRow.__dataclass_fields__, "idx", "source", "source_idx"]
    return table("rejects").frame(rejects), with_keys(pd.DataFrame(pairs, columns=columns))


def _checked(source: PairSource, row: int, pair: PairRow | str) -> tuple[PairRow | str, tuple[int, int]]:
    """The pair with its image's bytes, or why it can't be used; and the image's size."""
    if isinstance(pair, str):
        return pair, (0, 0)
    where = source.where(row)
    try:
        image = embed_image(pair.image, source.folder, where)
        size = open_image(image, where).size
    except UserError as error:
        return error.message.removeprefix(f"{where}: "), (0, 0)
    return replace(pair, image=image), size


def refuse_too_many(pairs: PairStore, rejects: pd.DataFrame, most: float) -> None:
    """Raise UserError if a larger share of the mix than ``most`` can't be used, or all of it."""
    drawn = len(pairs) + len(rejects)
    if not len(pairs) or len(rejects) > most * drawn:
        first = f" The first: {rejects.iloc[0]['why']}" if len(rejects) else ""
        raise UserError(
            f"{len(rejects):,} of {drawn:,} pairs to train on can't be used, more than "
            f"training.max_reject_share={most}.{first} "
            "All of them are in training_rejects. Mend them, or raise the share."
        )
