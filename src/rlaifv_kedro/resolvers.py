"""Resolvers of the configuration."""

from rlaifv_kedro.params.current import current


def last_iteration() -> str:
    """``${last_iteration:}`` is ``iteration_4``: the loop's last, as ``loop.iterations`` says."""
    return f"iteration_{current().parameters.loop.iterations}"
