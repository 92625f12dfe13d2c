"""Rules about training: what would stop it after answers were sampled and checked for hours."""

import errno
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedro.io.core import DatasetError

from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import MixSource
from rlaifv_kedro.preference.mix import make_mix
from rlaifv_kedro.preflight import machine
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.weight_names import weight_names
from rlaifv_kedro.runs.kedro_private import dataset
from rlaifv_kedro.tags import Role, Task
from rlaifv_kedro.tracking import lacks_login
from rlaifv_kedro.training.distributed import deepspeed_config, problem_for_deepspeed
from rlaifv_kedro.training.learning import Learning

PACKAGES = {
    "mlflow": "pip install 'rlaifv_kedro[mlflow]'; or leave mlflow out of training.report_to.",
    "wandb": "pip install 'rlaifv_kedro[wandb]'; or leave it out of training.report_to.",
    "swanlab": "pip install 'rlaifv_kedro[swanlab]'; or leave it out of training.report_to.",
    "trackio": "pip install 'rlaifv_kedro[trackio]'; or leave it out of training.report_to.",
    "tensorboard": "pip install tensorboard; or leave it out of training.report_to.",
    "deepspeed": "pip install deepspeed, which needs Linux; or leave training.deepspeed out.",
    "peft": "pip install peft; or leave training.lora out.",
}
OWN_PAIRS = "preference_pairs"
OWN_KEYS = ("model", "labeler", "type", "iteration")
"""What the origin_split of an iteration's own pairs holds."""


def dtype_can_be_trained(setup: RunSetup) -> Iterator[Finding]:
    """On a CPU float16 has no gradients to speak of: torch lacks most of its operations there."""
    compute = setup.parameters.compute
    if setup.does(Task.TRAINING) and compute.dtype == "float16" and machine.computes_on_cpu(compute.device):
        what = "float16 can't be trained on a CPU"
        yield Finding(False, what, "compute.dtype", "Choose float32 or bfloat16, or a GPU.")


def deepspeed_can_be_used(setup: RunSetup) -> Iterator[Finding]:
    """The file with DeepSpeed's configuration is there, and DeepSpeed and the parameters agree with it."""
    training, compute = setup.parameters.training, setup.parameters.compute
    if not setup.does(Task.TRAINING) or training.deepspeed is None:
        return
    dtype = getattr(setup.parameters.models.policy, "dtype", None) or compute.dtype
    try:
        config = deepspeed_config(training, dtype)
    except UserError as error:
        yield Finding(False, error.message, "training.deepspeed")
        return
    if find_spec("deepspeed") and (problem := problem_for_deepspeed(config)):
        what = f"{training.deepspeed} can't be used by DeepSpeed: {problem}"
        yield Finding(False, what, "training.deepspeed", "Correct it, or take a file of conf/deepspeed.")


def training_packages_are_there(setup: RunSetup) -> Iterator[Finding]:
    """What only some ways of training import; and MLflow, which other runs are logged to as well."""
    training, trains = setup.parameters.training, setup.does(Task.TRAINING)
    wanted = {name: "training.report_to" for name in training.report_to if trains or name == "mlflow"}
    for name in wanted:
        if variable := lacks_login(name):
            what = f"{name} has no key, and would ask for one when the training begins"
            remedy = f"Set {variable}, log in with its own command, or set {name.upper()}_MODE=offline."
            yield Finding(False, what, "training.report_to", remedy)
    if trains and training.deepspeed is not None:
        wanted["deepspeed"] = "training.deepspeed"
    if trains and training.lora is not None:
        wanted["peft"] = "training.lora"
    for name, parameter in wanted.items():
        yield machine.check_package(name, parameter, PACKAGES[name])


def processes_can_be_launched(setup: RunSetup) -> Iterator[Finding]:
    """Several processes need a GPU each, an address to meet at, and the command that starts them."""
    training = setup.parameters.training
    launch = training.launch
    together = launch.total() > 1 or training.deepspeed is not None
    if not (setup.does(Task.TRAINING) and together):
        return
    if getattr(setup.parameters.models.policy, "device_map", None) is not None:
        what = "a policy spread over several GPUs can't be trained by several processes, nor by DeepSpeed"
        yield Finding(False, what, "models.policy.device_map", "Leave it out.")
    gpus = 0 if setup.parameters.compute.device == "cpu" else machine.gpu_count()
    if gpus and launch.processes > gpus:
        what = f"{launch.processes} processes are to train on each host, and this one has {gpus} GPUs"
        yield Finding(False, what, "training.launch.processes", "Lower it: a process takes a whole GPU.")
    if launch.prefix and shutil.which(launch.prefix[0]) is None:
        what = f"there is no command {launch.prefix[0]}, which is to start the processes"
        yield Finding(False, what, "training.launch.prefix", "Run where it is, or leave the prefix out.")
    if launch.hosts > 1 and launch.address is not None and (problem := _address_problem(launch.address)):
        remedy = "Give the first host's name as the others know it, and a free port: host:port."
        yield Finding(False, f"{launch.address}: {problem}", "training.launch.address", remedy)


def _address_problem(address: str) -> str | None:
    """What is wrong with a host:port."""
    host, _, port = address.rpartition(":")
    if not 0 < int(port) < 65536:
        return f"there is no port {port}"
    try:
        [(family, kind, _, _, place), *_] = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )
    except OSError as error:
        return f"the host's name can't be resolved ({error.strerror or error})"
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # other errors: it is another host's address
                return "the port is in use on this host"
    return None


def mix_can_be_read(setup: RunSetup) -> Iterator[Finding]:
    """Every source of ``training.mix`` that is there holds pairs, and its filter leaves some."""
    mix = setup.parameters.training.mix
    for name in setup.parameters.training.sources() if "training_pairs" in setup.written else ():
        entry = f"training.mix.{name}"
        if name == OWN_PAIRS:
            yield from _own_filter(mix[name])
            continue
        found = dataset(setup.catalog, name) if name in setup.catalog and name in setup.read else None
        if found is None:  # which is said where inputs are looked at
            continue
        if not _holds_pairs(found):
            what = f"{name} holds no pairs to train on"
            remedy = (
                "Name a table of preference_pairs, or an entry of type "
                "rlaifv_kedro.datasets.PairSourceDataset."
            )
            yield Finding(False, what, entry, remedy)
        elif mix[name].where and found.exists():
            yield from _filter_leaves_pairs(name, found, mix[name])


def _own_filter(source: MixSource) -> Iterator[Finding]:
    for key in source.where.keys() - set(OWN_KEYS):
        what = f"the origin_split of an iteration's own pairs has no key {key}"
        where = f"training.mix.{OWN_PAIRS}.where.{key}"
        yield Finding(False, what, where, f"The keys there are: {', '.join(OWN_KEYS)}.")


def _holds_pairs(found: Any) -> bool:
    return isinstance(found, PairSourceDataset) or (
        isinstance(found, TableDataset) and found._table == OWN_PAIRS
    )


def _filter_leaves_pairs(name: str, found: Any, source: MixSource) -> Iterator[Finding]:
    entry = found.load()
    try:
        make_mix({name: entry}, {name: source}, seed=0)
    except (UserError, DatasetError) as error:
        yield Finding(False, f"{name}: its filter can't be used", f"training.mix.{name}.where", str(error))
    else:
        what = f"{name}: its filter leaves some of {len(entry):,} pairs"
        yield Finding(True, what, f"training.mix.{name}.where")


def what_learns_is_there(setup: RunSetup) -> Iterator[Finding]:
    """What is to stay frozen, and where adapters go, fits the policy's weights, and leaves some to learn."""
    read = {name for node in setup.pipeline.nodes if Task.TRAINING in node.tags for name in node.inputs}
    for entry in read.intersection(setup.checkpoint_entries(Role.POLICY)):
        folder = setup.folder(entry)
        described = None if folder is None else weight_names(Path(folder))
        if described is None:
            continue
        try:
            Learning.of(*described, setup.parameters.training)
        except UserError as error:
            yield Finding(False, error.message, f"the catalog's {entry}")


RULES = (
    dtype_can_be_trained,
    deepspeed_can_be_used,
    training_packages_are_there,
    processes_can_be_launched,
    mix_can_be_read,
    what_learns_is_there,
)
