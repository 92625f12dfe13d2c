"""The rows of a table by their prompts."""

import numpy as np
import pandas as pd


class ByPrompt:
    """The rows of each prompt, found when they are asked for: a frame for each would take kilobytes.

    Args:
        rows: With a column prompt_id.
        keep: Which rows count, bool (rows,); None for all.
    """

    def __init__(self, rows: pd.DataFrame, keep: np.ndarray | None = None):
        codes, self._prompts = pd.factorize(rows["prompt_id"])
        order = np.argsort(codes, kind="stable")
        self._order = order if keep is None else order[keep[order]]
        self._starts = np.searchsorted(codes[self._order], np.arange(len(self._prompts) + 1))
        self._rows = rows

    def __contains__(self, prompt_id: str) -> bool:
        return len(self._positions(prompt_id)) > 0

    def __getitem__(self, prompt_id: str) -> pd.DataFrame:
        """The prompt's rows in their order, with their index; none where it has none.

        Those from the first to the last of them are cut out first, which copies nothing: to take rows by
        their numbers, Arrow puts the pieces of a long column together.
        """
        positions = self._positions(prompt_id)
        if not len(positions):
            return self._rows.iloc[:0]
        return self._rows.iloc[positions[0] : positions[-1] + 1].iloc[positions - positions[0]]

    def _positions(self, prompt_id: str) -> np.ndarray:
        if prompt_id not in self._prompts:
            return self._order[:0]
        number = self._prompts.get_loc(prompt_id)
        return self._order[self._starts[number] : self._starts[number + 1]]
