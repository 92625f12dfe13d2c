"""What could be known at the start is known before the first node: each mistake alone, in the whole loop of a
recipe.
"""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.session import KedroSession

from rlaifv_kedro.engine import cluster
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preflight import machine
from rlaifv_kedro.preflight.rules import before_run
from rlaifv_kedro.preflight.run import configured
from whole_recipe import LABELER, POLICY, PROMPTS, SPLITTER

ENV = "llava15_7b"
SMALL = {"compute": {"device": "cpu"}, "loop": {"iterations": 2}, "data_generation": {"prompts": 4}}
SERVER = {"backend": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"}
JUDGED = {"evaluation": {"benchmarks": ["mmhal"]}, "models": {"judge": SERVER}}
VLLM = {"models": {"policy": {"backend": "vllm"}, "judge": SERVER}}


def start(project: Path, params: dict[str, Any], pipeline: str = "rlaif_loop") -> None:
    """Ask what a run asks before its first node."""
    setup = configured(project, ENV, {**SMALL, **params}, [pipeline])
    before_run(setup.pipeline, setup.catalog)


def refused(project: Path, params: dict[str, Any], pipeline: str = "rlaif_loop") -> list[str]:
    """The lines of the refusal, without its heading."""
    with pytest.raises(UserError) as caught:
        start(project, params, pipeline)
    return caught.value.message.splitlines()[1:]


def test_nothing_is_refused_where_nothing_is_wrong(project: Path) -> None:
    start(project, {})


def test_a_run_tells_all_that_is_wrong_at_once_and_begins_nothing(project: Path) -> None:
    (project / LABELER / "chat_template.jinja").unlink()
    params = {**SMALL, "training": {"deepspeed": "conf/deepspeed/zero9.json"}}
    with (
        KedroSession.create(project, env=ENV, runtime_params=params) as session,
        pytest.raises(UserError) as caught,
    ):
        session.run(pipeline_names=["rlaif_loop"])
    told = caught.value.message
    assert "training.deepspeed=conf/deepspeed/zero9.json can't be used" in told
    assert "labeler: it has no chat template" in told
    assert not (project / "data/runs").exists()


@pytest.mark.parametrize(
    ("params", "line"),
    [
        (
            {"compute": {"device": "cpu", "dtype": "float16"}},
            "float16 can't be trained on a CPU (compute.dtype)",
        ),
        ({"training": {"deepspeed": "conf/zero.json"}}, "training.deepspeed=conf/zero.json can't be used"),
        ({"training": {"freeze": ["."]}}, "training.freeze=['.'] freezes the whole policy"),
        (
            {"training": {"freeze": ["vision_tower", "vison"]}},
            "training.freeze: 'vison' is part of no weight's name in the policy",
        ),
        (
            {"training": {"mix": {"preference_pairs": {"where": {"iteraton": 1}}}}},
            "the origin_split of an iteration's own pairs has no key iteraton",
        ),
        (
            {"training": {"mix": {"test_instances": {}}}},
            "test_instances holds no pairs to train on",
        ),
        (
            {"training": {"launch": {"hosts": 2, "address": "localhost:70000"}}},
            "localhost:70000: there is no port 70000 (training.launch.address)",
        ),
        (
            {"training": {"launch": {"hosts": 2, "address": "no.such.host.invalid:29500"}}},
            "no.such.host.invalid:29500: the host's name can't be resolved",
        ),
        (
            {"training": {"launch": {"processes": 2, "prefix": ["srunn"]}}},
            "there is no command srunn, which is to start the processes (training.launch.prefix)",
        ),
        (
            {"training": {"launch": {"processes": 2}}, "models": {"policy": {"device_map": "auto"}}},
            "a policy spread over several GPUs can't be trained by several processes",
        ),
        (
            {"feedback": {"scoring": "answer"}, "models": {"labeler": SERVER}},
            "only a labeler in this process can score whole answers, and models.labeler has backend openai",
        ),
        ({"models": {"splitter": {"path": None}}}, "models.splitter names no model (models.splitter.path)"),
        (
            {"feedback": {"divide_prompt": "gone.txt"}},
            "the splitter's prompt can't be used (feedback.divide_prompt)",
        ),
        ({"feedback": {"question_prompt": "pyproject.toml"}}, "the prompt lacks {claims}"),
        (
            {"feedback": {"yes_words": ["yes", "nope"], "no_words": ["no"]}},
            "labeler: yes and no can't be read",
        ),
        ({"training": {"max_length": 16}}, "policy: an image takes"),
        ({"data_generation": {"prompts": 5}}, "prompt_pool: 8 prompts, of which the run needs 10"),
        ({"models": {"labeler": {"chat_template": "gone.jinja"}}}, "labeler: the chat template is not there"),
        (
            {"models": {"labeler": {"attn_implementation": "flash_attention_2"}}},
            "the package flash_attn is not installed",
        ),
        ({**JUDGED, "judge": {"prices": "gone.yml"}}, "the judge's prices can't be read (judge.prices)"),
        (
            {**JUDGED, "benchmarks": {"mmhal_prompt": "gone.txt"}},
            "the judge's prompt can't be used (benchmarks.mmhal_prompt)",
        ),
        ({"evaluation": {"benchmarks": ["mmhal"]}}, "No judge is named"),
        ({"evaluation": {"benchmarks": ["amber"]}}, "'en_core_web_lg' can't be loaded"),
        (
            {**JUDGED, **VLLM, "compute": {"device": "cpu"}},
            "a policy with backend vllm can't search for answers with 3 beams (benchmarks.beams)",
        ),
    ],
)
def test_parameters_that_would_stop_the_run(project: Path, params: dict[str, Any], line: str) -> None:
    assert any(line in told for told in refused(project, params)), refused(project, params)


def write_template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


def damage_selection_image(project: Path) -> None:
    path = project / PROMPTS / "selection_prompts.parquet"
    frame = pd.read_parquet(path)
    frame.assign(image=[{"bytes": b"?", "path": "a.png"}] * len(frame)).to_parquet(path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: (p / POLICY / "processor_config.json").unlink(), "policy: the image processor is missing"),
        (lambda p: (p / SPLITTER / "chat_template.jinja").unlink(), "splitter: it has no chat template"),
        (lambda p: (p / LABELER / "tokenizer.json").unlink(), "labeler: the tokenizer is missing"),
        (lambda p: shutil.rmtree(p / SPLITTER), "splitter: the folder is not there"),
        (damage_selection_image, "selection_prompts: it can't be used"),
        (
            lambda p: write_template(p / SPLITTER, "{{ raise_exception('no messages') }}"),
            "splitter: its chat template can't be used",
        ),
        (
            lambda p: write_template(p / LABELER, "{% if messages %}"),
            "labeler: its chat template can't write a question",
        ),
    ],
)
def test_files_that_would_stop_the_run(project: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(project)
    [told] = refused(project, {})
    assert line in told


@pytest.mark.parametrize(
    ("package", "params"),
    [
        ("mlflow", {"training": {"report_to": ["mlflow"]}}),
        ("trackio", {"training": {"report_to": ["trackio"]}}),
        ("tensorboard", {"training": {"report_to": ["tensorboard"]}}),
        ("peft", {"training": {"lora": {}}}),
        ("deepspeed", {"training": {"deepspeed": "conf/deepspeed/zero2.json"}}),
    ],
)
def test_packages_that_would_stop_the_run(
    project: Path, package: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = machine.importlib.util.find_spec
    monkeypatch.setattr(
        machine.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    [told] = refused(project, params)
    assert f"the package {package} is not installed" in told


def test_a_gpu_that_is_not_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_count", lambda: 0)
    [told] = refused(project, {"compute": {"device": "cuda"}})
    assert "torch sees none here" in told
    [told] = refused(project, {"compute": {"device": "auto", "dtype": "float16"}})
    assert "float16 can't be trained on a CPU" in told
    monkeypatch.setattr(machine, "gpu_count", lambda: 2)
    training = {"launch": {"processes": 4}, "micro_batch_size": 2}
    [told] = refused(project, {"compute": {"device": "cuda"}, "training": training})
    assert "4 processes are to train on each host, and this one has 2 GPUs" in told


def test_a_port_that_is_in_use(project: Path) -> None:
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        [told] = refused(project, {"training": {"launch": {"hosts": 2, "address": address}}})
    assert f"{address}: the port is in use on this host (training.launch.address)" in told
    start(project, {"training": {"launch": {"hosts": 2, "address": address}}})


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {"zero_optimization": {"stage": 2}, "train_batch_size": 64},
            "train_batch_size is 64, but by training.",
        ),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "by compute.dtype it is float32"),
        (
            {"zero_optimization": {"stage": 2, "overlap_com": True}},
            "overlap_com: Extra inputs are not permitted",
        ),
    ],
)
def test_a_deepspeed_file_that_would_stop_the_training(
    project: Path, config: dict[str, Any], line: str
) -> None:
    (project / "zero.json").write_text(json.dumps(config))
    compute = {"device": "cpu", "dtype": "float32"}
    found = refused(project, {"training": {"deepspeed": "zero.json"}, "compute": compute})
    assert any(line in told for told in found), found


def test_a_hub_name_is_fetched_at_the_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def nothing(name: str, **_: Any) -> str:
        raise OSError(f"no {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    told = refused(project, {"models": {"splitter": {"path": "someone/nothing"}}})
    assert "splitter: it can't be fetched (models.splitter.path)" in told[0]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(project / SPLITTER))
    start(project, {"models": {"splitter": {"path": "someone/llama"}}})


def test_a_reward_needs_a_reference_with_the_policy_s_tokens(project: Path) -> None:
    names = ("RLAIF-V-7B", "llava-v1.5-7b")
    policy, reference = (project / "data/06_models" / name for name in names)
    shutil.copytree(project / POLICY, policy)
    shutil.copytree(project / POLICY, reference)
    params = {"feedback": {"scoring": "reward"}}
    start(project, params)
    tokenizer = reference / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"dog"', '"dogg"'))
    [told] = refused(project, params)
    assert "reward_policy and reward_reference write answers in different tokens" in told


def test_a_stage_is_asked_only_what_it_needs(project: Path) -> None:
    """What only training needs doesn't keep claims from being checked."""
    start(project, {"training": {"deepspeed": "conf/zero.json"}}, "feedback")
    start(project, {"feedback": {"divide_prompt": "gone.txt"}}, "training")


def test_ray_without_its_package_or_gpus_is_said_before(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def params(**ray: Any) -> dict[str, Any]:
        return {
            "compute": {
                **SMALL["compute"],
                "engine": "ray",
                "ray": {"workers": 2, "gpus_per_worker": 1} | ray,
            }
        }

    found, find = [None, object()], machine.importlib.util.find_spec
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        machine.importlib.util, "find_spec", lambda name: found[-1] if name == "ray" else find(name)
    )
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    [line] = refused(project, params())
    assert "Ray on this machine: 2 workers of 1 GPUs each, and 1 GPUs are here" in line
    start(project, params(gpus_per_worker=0.5))
    hosts = cluster.Room([{"CPU": 4.0, "GPU": 3.0}, {"CPU": 4.0}])
    monkeypatch.setattr(cluster, "ask", lambda address: (hosts, {"CPU": 8.0}))
    start(project, params(address="head:6379", workers=9))
    [line] = refused(project, params(address="head:6379", gpus_per_worker=4))
    assert (
        "Ray at head:6379 has 2 hosts (3 GPUs and 4 CPUs, 0 GPUs and 4 CPUs), of which 0 GPUs and 8 CPUs are "
        "free: room for 0 workers of 4 GPUs and 1 CPUs (compute.ray.address). Lower " in line
    )
    found.pop()
    [line] = refused(project, params(gpus_per_worker=0))
    assert "the package ray is not installed" in line and "rlaifv_kedro[ray]" in line
