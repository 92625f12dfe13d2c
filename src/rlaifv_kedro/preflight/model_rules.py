"""Rules about the models that a run asks: their files, the device, packages and servers."""

from collections.abc import Iterator

from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.params import OpenAIParams, TransformersParams, WeightsParams
from rlaifv_kedro.preflight import machine
from rlaifv_kedro.preflight.finding import Finding, refusal
from rlaifv_kedro.preflight.setup import RunSetup

FLASH_ATTENTION = (
    "pip install flash-attn; or set attn_implementation: sdpa, which shares prefixes and is faster here."
)


def hub_models_are_fetched(setup: RunSetup) -> Iterator[Finding]:
    """Models that are named as on the model hub are fetched now; a wrong name would stop the run late."""
    for model in setup.models:
        for source in (model.source, getattr(model.params, "adapter", None)):
            if source is not None:
                yield from refusal(f"{model.role}: it can't be fetched", model.where, folder_of, source)


def models_are_whole(setup: RunSetup) -> Iterator[Finding]:
    """Weights, config and processor of every model that the run loads, and its chat template."""
    for _, look in setup.inspected:
        yield from look.findings


def gpu_is_there(setup: RunSetup) -> Iterator[Finding]:
    """A GPU, where one is asked for; it isn't touched."""
    if _computes(setup):
        missing = machine.missing_gpu(setup.parameters.compute.device, machine.gpu_count())
        if missing is not None:
            yield missing


def device_is_known(setup: RunSetup) -> Iterator[Finding]:
    """The GPUs with their free memory, which takes a little of it."""
    if _computes(setup):
        largest = max((size.parameters for size in setup.sizes.values()), default=0)
        yield machine.check_device(setup.parameters.compute.device, machine.gpus(), largest)


def _computes(setup: RunSetup) -> bool:
    """Whether a model of the run is loaded here, not asked of a server."""
    return any(isinstance(params, WeightsParams) for params in setup.asked().values())


def packages_are_there(setup: RunSetup) -> Iterator[Finding]:
    """What only some backends, kinds of attention and models import."""
    for name, params in setup.asked().items():
        if isinstance(params, TransformersParams) and params.attn_implementation == "flash_attention_2":
            where = f"models.{name}.attn_implementation"
            yield machine.check_package("flash_attn", where, FLASH_ATTENTION)
    wanted: dict[str, list[str]] = {}
    for entry in setup.read:
        for package in setup.metadata(entry).get("packages", ()):
            wanted.setdefault(package, []).append(entry)
    for package, entries in wanted.items():
        remedy = f"pip install {package}; docs/recipes.md says which build."
        yield machine.check_package(package, f"the catalog's {' and '.join(entries)}", remedy)


def servers_are_named(setup: RunSetup) -> Iterator[Finding]:
    """Every server has an address, a model and a possible key; nothing is asked of it."""
    for name, params in setup.asked().items():
        if isinstance(params, OpenAIParams):
            what = f"{name}: its server can't be used"
            yield from refusal(what, f"models.{name}", machine.server, params)


def servers_answer(setup: RunSetup) -> Iterator[Finding]:
    """Every server takes the key and serves the model."""
    for name, params in setup.asked().items():
        if isinstance(params, OpenAIParams):
            yield from machine.check_server(name, params)


RULES = (models_are_whole, packages_are_there)
