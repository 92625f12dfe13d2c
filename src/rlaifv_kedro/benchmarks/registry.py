"""All benchmarks. A new one is a module of its own and a line here: docs/extending.md."""

from difflib import get_close_matches

from rlaifv_kedro.benchmarks.amber import AMBER
from rlaifv_kedro.benchmarks.benchmark import Benchmark
from rlaifv_kedro.benchmarks.chair import CHAIR
from rlaifv_kedro.benchmarks.mmhal import MMHAL
from rlaifv_kedro.benchmarks.object_halbench import OBJECT_HALBENCH
from rlaifv_kedro.benchmarks.pope import POPE
from rlaifv_kedro.benchmarks.refomb import REFOMB
from rlaifv_kedro.errors import UserError

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (CHAIR, OBJECT_HALBENCH, MMHAL, REFOMB, AMBER, POPE)
}


def benchmark_named(name: str, where: str) -> Benchmark:
    """The benchmark of that name.

    Args:
        where: Where the name stands, for the message.

    Raises:
        UserError: There is none; names one that is spelled alike, or all.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = get_close_matches(name, BENCHMARKS, n=1)
    known = f"did you mean {near[0]}?" if near else f"known are {', '.join(BENCHMARKS)}."
    raise UserError(f"{where}: there is no benchmark {name!r}; {known}")


def title_of(name: str) -> str:
    """The title of a benchmark; of what is none, such as probes, the name."""
    return BENCHMARKS[name].title if name in BENCHMARKS else name
