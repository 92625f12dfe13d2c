"""``kedro run`` with a training of several processes: from the command line to the policy that the next
iteration starts from.
"""

import json
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.models import load_model
from whole_project import Project


@pytest.mark.distributed
def test_adapters_trained_by_two_processes_become_a_policy(finished: tuple[Project, str]) -> None:
    """The stages from training on, on the finished run's pairs; ZeRO-2 by the file in conf/."""
    project, _ = finished
    params = "run_id=spread,training.launch.processes=2,training.deepspeed=conf/deepspeed/zero2.json,training.lora.rank=4,training.learning_rate=0.001"
    shown = project.kedro("--pipelines", "training,evaluation", "--params", params)
    logs = project.path / "data/08_reporting/iteration_1/training_logs/spread/training_logs"
    assert str(Path("data/08_reporting/iteration_1/training_logs/spread/training_logs/training.log")) in shown
    said = json.loads((logs / "result.json").read_text())
    assert (said["world_size"], said["engine"]) == (2, "zero2")
    log = pd.read_parquet(
        project.path / "data/08_reporting/iteration_1/training_log.parquet/spread/training_log.parquet"
    )
    assert log["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3) and log["reward_margin"].iloc[-1] > 0
    checkpoints = project.path / "data/06_models/iteration_1/checkpoints/spread/checkpoints"
    assert all((path / "adapter_config.json").is_file() for path in checkpoints.glob("checkpoint-*"))
    assert not list(checkpoints.glob("checkpoint-*/global_step*"))
    policy = project.path / "data/06_models/iteration_1/trained_policy/spread/trained_policy"
    assert not (policy / "adapter_config.json").exists()
    load_model(policy, device="cpu")
