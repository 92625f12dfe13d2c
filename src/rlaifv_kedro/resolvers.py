"""Resolvers of the configuration."""


def iteration_before(iteration: int) -> str:
    """``${iteration_before:3}`` is ``iteration_2``: whose policy an iteration starts from."""
    return f"iteration_{int(iteration) - 1}"
