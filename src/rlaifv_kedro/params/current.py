"""The parameters of the session, in one place: Kedro asks for pipelines without telling any."""

from dataclasses import dataclass

from rlaifv_kedro.params.run import Parameters


@dataclass(frozen=True)
class Session:
    """What pipelines are made of.

    Attributes:
        parameters: All of them; the defaults are what ``kedro registry list`` shows.
        missing_tables: Tables of benchmarks of which no run has made one yet.
        own_prompts: Whether the prompts are the user's own, so that no run draws them.
    """

    parameters: Parameters = Parameters()
    missing_tables: frozenset[str] = frozenset()
    own_prompts: bool = False


_current = Session()


def set_current(session: Session) -> None:
    """Says what the pipelines are made of from now on."""
    global _current
    _current = session


def current() -> Session:
    """What the pipelines are made of."""
    return _current
