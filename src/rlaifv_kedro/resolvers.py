"""Resolvers of the configuration."""


def iteration_before(iteration: int) -> str:
    """``${iteration_before:3}`` is ``iteration_2``: whose policy an iteration starts from."""
    return f"iteration_{int(iteration) - 1}"


def last_iteration() -> str:
    """``${last_iteration:}`` is ``iteration_4``: the loop's last, as ``loop.iterations`` says, which
    catalogs don't see.
    """
    from rlaifv_kedro import pipeline_registry

    return f"iteration_{pipeline_registry.LOOP_ITERATIONS}"
