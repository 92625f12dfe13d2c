"""Services beside the tables that curves of trainings, and with MLflow whole runs, are logged to.

transformers' own callbacks log the trainings. Here is what they don't know: names, folders, and which run of
the service goes on when one of ours does.
"""

import hashlib
import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROJECT = "rlaifv_kedro"
"""The project, or MLflow's experiment, that is logged to unless the service's own variable names another."""
# Unless MLFLOW_TRACKING_URI says otherwise: one place for all runs. MLflow's own default, a folder of files,
# is being retired.
MLFLOW_STORE = "sqlite:///data/08_reporting/mlflow.db"
_MLFLOW_FILES = Path("data/08_reporting/mlflow_files")
_TAG = "rlaifv_kedro.run"
# Their own servers, and the variable that names another.
_SERVERS = {"wandb": ("api.wandb.ai", "WANDB_BASE_URL"), "swanlab": ("swanlab.cn", "SWANLAB_WEB_HOST")}
_LOCAL = {"wandb": {"offline", "disabled", "dryrun"}, "swanlab": {"local", "offline", "disabled"}}


def training_name(logs: Path) -> str:
    """How services call a training: "RUN iteration_1".

    Args:
        logs: Its folder of logs, ``iteration_1/training_logs/RUN/training_logs``.
    """
    return f"{logs.parent.name} {logs.parents[2].name}"


def prepare(services: list[str], logs: Path) -> None:
    """Begins the services' runs of a training, or names them, so that one that is resumed goes on in its own.

    Args:
        logs: See :func:`training_name`; what a service keeps on the disk lies there too.
    """
    name = training_name(logs)
    key = hashlib.sha256(name.encode()).hexdigest()[:21]  # an id as each of the services takes it
    if "wandb" in services:
        import wandb

        # Begun here, since W&B reads its variables once a process, and the next iteration is another run.
        os.environ.setdefault("WANDB_SILENT", "true")
        project, folder = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_DIR", str(logs))
        wandb.init(project=project, name=name, dir=folder, id=key, resume="allow", reinit="finish_previous")
    if "swanlab" in services:
        import swanlab

        # transformers 5.23 begins a run only where get_run() gives None, and SwanLab 0.10 raises instead.
        project = os.environ.get("SWANLAB_PROJECT", PROJECT)
        folder = os.environ.get("SWANLAB_LOG_DIR", str(logs / "swanlog"))
        swanlab.init(reinit=True, project=project, name=name, log_dir=folder, id=key, resume="allow")
    if "mlflow" in services:
        os.environ["MLFLOW_RUN_ID"] = mlflow_run(name, parent=logs.parent.name)
        # The run that is its parent has the parameters; of a resumed training MLflow would refuse other ones.
        os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"


def end(services: list[str]) -> None:
    """Ends what the callbacks have begun: they leave it to the end of the process, which may train again."""
    if "wandb" in services:
        import wandb

        wandb.finish()
    if "swanlab" in services:
        import swanlab

        if swanlab.has_run():
            swanlab.finish()
    if "mlflow" in services:
        os.environ.pop("MLFLOW_RUN_ID", None)


def lacks_login(service: str) -> str | None:
    """The variable that a service's key is missing in; None where it has one, or is to be local."""
    if service not in _SERVERS or os.environ.get(f"{service.upper()}_MODE") in _LOCAL[service]:
        return None
    variable, (host, other) = f"{service.upper()}_API_KEY", _SERVERS[service]
    if address := os.environ.get(other):
        host = urlsplit(address if "//" in address else f"//{address}").hostname or host
    files = [Path.home() / name for name in (".netrc", "_netrc", ".swanlab/.netrc")]
    if chosen := os.environ.get("NETRC"):
        files.append(Path(chosen))
    known: set[str] = set()
    for file in files:
        try:
            known |= set(netrc(file).hosts)
        except (OSError, NetrcParseError):
            continue
    return None if os.environ.get(variable) or any(host in name for name in known) else variable


def mlflow_client() -> "MlflowClient":
    """MLflow's client, for the store that its variable names, or for ours."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_TRACKING_URI", MLFLOW_STORE)
    return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


def mlflow_run(name: str, parent: str | None = None) -> str:
    """The id of the MLflow run of this name, which is made where there is none, and runs from now on.

    Args:
        parent: The name of the run that it is a part of.
    """
    client = mlflow_client()
    experiment = _experiment(client)
    found = client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{name}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    tags = {_TAG: name} | ({} if parent is None else {"mlflow.parentRunId": mlflow_run(parent)})
    return client.create_run(experiment, run_name=name, tags=tags).info.run_id


def _experiment(client: "MlflowClient") -> str:
    name = os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    own = os.environ["MLFLOW_TRACKING_URI"] == MLFLOW_STORE
    return client.create_experiment(name, _MLFLOW_FILES.absolute().as_uri() if own else None)
