"""Rules about the tables that a run reads: prompts enough, and truth about all images."""

from collections.abc import Iterator

from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.files import shown
from rlaifv_kedro.params import missing_prompts
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.inputs import SPLITS, check_truth
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs.kedro_private import dataset, filepath, is_versioned, overwrites
from rlaifv_kedro.runs.missing import OVERWRITTEN

POOL = "prompt_pool"


def inputs_can_be_used(setup: RunSetup) -> Iterator[Finding]:
    """Tables have their schema, keys, texts and images; at the start of a run only the user's own."""
    yield from setup.inputs.findings


def nothing_is_overwritten(setup: RunSetup) -> Iterator[Finding]:
    """What the run makes has versions."""
    for name in sorted(setup.pipeline.all_outputs()):
        if overwrites(dataset(setup.catalog, name)):
            what = f"{name}: the run would overwrite it, for the entry has no versions"
            yield Finding(False, what, f"the catalog's {name}", OVERWRITTEN)


def truth_is_about_the_prompts(setup: RunSetup) -> Iterator[Finding]:
    """Annotations of a split know all its images, and its yes/no questions are about these."""
    for split in SPLITS:
        yield from check_truth(split, setup.inputs)


def prompts_suffice(setup: RunSetup) -> Iterator[Finding]:
    """Every iteration of the loop can draw prompts that none before it had."""
    rows = pool_rows(setup) if "prompts" in setup.written else None
    if rows is None:
        return
    parameters = setup.parameters
    missing = missing_prompts(rows, parameters.iteration, parameters.data_generation, parameters.loop)
    iterations = max(parameters.iteration, parameters.loop.iterations)
    needed = iterations * parameters.data_generation.prompts
    what = f"{POOL}: {rows:,} prompts, of which the run needs {needed:,}"
    yield Finding(missing is None, what, shown(filepath(dataset(setup.catalog, POOL)) or POOL), missing or "")


def pool_rows(setup: RunSetup) -> int | None:
    """Prompts in the pool that the run reads or draws; None if it isn't there or can't be read."""
    if pool_is_drawn(setup):
        return setup.parameters.miniature.pool_scenes
    footer = setup.footer(POOL)
    return None if footer is None else footer.num_rows


def pool_is_drawn(setup: RunSetup) -> bool:
    """Whether the prompts are the miniature's and not there yet: only such a pool has versions."""
    if POOL in setup.pipeline.all_outputs():
        return True
    pool = dataset(setup.catalog, POOL) if POOL in setup.catalog else None
    return isinstance(pool, TableDataset) and is_versioned(pool) and pool.footer() is None
