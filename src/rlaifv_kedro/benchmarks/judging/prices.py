"""What a judge costs: prices by model, from a file."""

import io
import re
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlaifv_kedro.doors import MOST_OF_SETTINGS, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.params import BackendParams, OpenAIParams


class Price(BaseModel):
    """Of a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        """What so many tokens cost."""
        return (self.input * prompt_tokens + self.output * reply_tokens) / 1e6


class PriceTable(BaseModel):
    """A file with prices by the names of models.

    Attributes:
        currency, as_of, source: What the prices are in, how old (a date), and from where.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str
    as_of: str
    source: str
    models: dict[str, Price]

    @classmethod
    def read(cls, path: str | Path) -> "PriceTable":
        """Read a YAML file, as files of ``conf/`` are read: a name that comes twice is refused.

        Raises:
            UserError: It can't be read, or isn't such a table.
        """
        try:
            read = OmegaConf.load(io.StringIO(regular_bytes(path, MOST_OF_SETTINGS).decode()))
            found = OmegaConf.to_container(read)
        except Exception as error:  # of the system, of YAML and of OmegaConf
            raise UserError(
                f"{path}: can't read the prices: {shortened(reason_of(error), 300)}. Mend the file, or set "
                "judge.prices to another, or to null."
            ) from error
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole file"
            raise UserError(
                f"{path}: no table of prices: {where}: {error.errors()[0]['msg']}. It needs currency, "
                "as_of, source, models."
            ) from error

    def price(self, model: str) -> Price | None:
        """The price of a model; None if it isn't listed.

        A dated name (``gpt-4o-2024-08-06``) costs what the undated one does, unless it is listed itself.
        """
        return self.models.get(model) or self.models.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model))


def price_of(params: BackendParams, prices: str | Path | None) -> Price | None:
    """The price by ``models.judge`` itself, or else by the file; None if neither knows it.

    A judge in this process has none.

    Raises:
        UserError: The file can't be read, or isn't a table of prices.
    """
    if not isinstance(params, OpenAIParams):
        return None
    if _has_own_price(params):
        return Price(input=params.price_input, output=params.price_output)
    return None if prices is None else PriceTable.read(prices).price(params.model)


def price_and_currency(params: BackendParams, prices: str | Path | None) -> tuple[Price | None, str]:
    """:func:`price_of`, and its currency, which is empty where no file says it."""
    without_table = _has_own_price(params) or prices is None
    return price_of(params, prices), "" if without_table else PriceTable.read(prices).currency


def _has_own_price(params: BackendParams) -> bool:
    """Whether the parameters of a model say what it costs."""
    return isinstance(params, OpenAIParams) and bool(params.price_input or params.price_output)
