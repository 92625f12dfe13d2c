"""Services beside the tables: names, keys, and runs that go on."""

from pathlib import Path

import pytest

from begun_runs import begin
from rlaifv_kedro import tracking
from rlaifv_kedro.params import TrainingParams
from rlaifv_kedro.training.callbacks import loggers, services_of

LOGS = Path("data/08_reporting/iteration_2/training_logs/RUN/training_logs")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without any key."""
    for service in ("WANDB", "SWANLAB"):
        for variable in (f"{service}_MODE", f"{service}_API_KEY"):
            monkeypatch.delenv(variable, raising=False)
    for variable in ("WANDB_BASE_URL", "SWANLAB_WEB_HOST", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_training_is_called_by_run_and_iteration():
    assert tracking.training_name(LOGS) == "RUN iteration_2"


@pytest.mark.parametrize(("service", "host"), [("wandb", "api.wandb.ai"), ("swanlab", "api.swanlab.cn")])
def test_a_service_wants_a_key_unless_it_stays_local(home, monkeypatch, service, host):
    variable = f"{service.upper()}_API_KEY"
    assert tracking.lacks_login(service) == variable
    with monkeypatch.context() as patched:
        patched.setenv(variable, "k" * 40)
        assert tracking.lacks_login(service) is None
    with monkeypatch.context() as patched:
        patched.setenv(f"{service.upper()}_MODE", "offline")
        assert tracking.lacks_login(service) is None
    (home / ".netrc").write_text(f"machine {host} login user password {'k' * 40}\n")
    assert tracking.lacks_login(service) is None
    (home / ".netrc").write_text("machine elsewhere.org login user password secret\n")
    assert tracking.lacks_login(service) == variable


@pytest.mark.parametrize(
    ("service", "variable", "address"),
    [
        ("wandb", "WANDB_BASE_URL", "https://curves.example.org:8080"),
        ("swanlab", "SWANLAB_WEB_HOST", "curves.example.org"),
    ],
)
def test_a_server_of_ones_own_has_a_key_of_its_own(home, monkeypatch, service, variable, address):
    key = f"machine curves.example.org login user password {'k' * 40}\n"
    (home / "keys").write_text(key)
    monkeypatch.setenv("NETRC", str(home / "keys"))
    assert tracking.lacks_login(service) == f"{service.upper()}_API_KEY"
    monkeypatch.setenv(variable, address)
    assert tracking.lacks_login(service) is None


@pytest.mark.parametrize("service", ["tensorboard", "mlflow", "trackio"])
def test_the_others_want_none(home, service):
    assert tracking.lacks_login(service) is None


def test_one_process_of_a_training_logs(tmp_path, monkeypatch):
    params = TrainingParams()
    assert services_of(params, None) == [] and services_of(params, LOGS) == ["tensorboard"]
    monkeypatch.setenv("RANK", "1")
    assert loggers(params, tmp_path) == []


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow's own libraries
def test_a_run_and_its_trainings_go_on_in_their_own_runs_of_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="an extra")
    from rlaifv_kedro.mlflow_hooks import MlflowHooks

    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/08_reporting").mkdir(parents=True)
    first = tracking.mlflow_run("RUN iteration_1", parent="RUN")
    assert tracking.mlflow_run("RUN iteration_1", parent="RUN") == first
    client, parent = tracking.mlflow_client(), tracking.mlflow_run("RUN")
    assert client.get_run(first).data.tags["mlflow.parentRunId"] == parent
    hooks = MlflowHooks()
    hooks._client, hooks._run_id, hooks._project, hooks._name = client, parent, tmp_path, "RUN"
    hooks._log_parameters(begin(tmp_path, "RUN"))
    hooks._log_parameters(begin(tmp_path, "RUN", parameters={"a": {"b": 2}}))
    hooks._end("FINISHED")
    logged = client.get_run(parent)
    assert logged.data.params == {"a.b": "1"} and logged.data.tags["now.a.b"] == "2"
    assert logged.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(parent)] == ["manifest.json"]
