"""Entries that hold no file."""

from typing import Any

from kedro.io import AbstractDataset

from rlaifv_kedro.errors import UserError


class IterationNumberDataset(AbstractDataset[None, int]):
    """The number in an iteration's name, which tells a stage where it is: ``iteration_3`` -> 3.

    The base policy, which no iteration has made, is measured as that of iteration 0: ``base`` -> 0.
    """

    IS_FILE = False

    def __init__(self, iteration: str, metadata: dict[str, Any] | None = None):
        self.iteration, self.metadata = iteration, metadata

    def load(self) -> int:
        """The number.

        Raises:
            UserError: The name is not an iteration's.
        """
        if self.iteration == "base":
            return 0
        number = self.iteration.rpartition("_")[2]
        if not number.isdigit() or int(number) < 1:
            raise UserError(f"{self.iteration!r} names no iteration: use iteration_1, iteration_2 ...")
        return int(number)

    def save(self, data: None) -> None:
        """Refused."""
        raise UserError("an iteration's number comes from its name and can't be saved.")

    def _describe(self) -> dict[str, Any]:
        return {"iteration": self.iteration}
