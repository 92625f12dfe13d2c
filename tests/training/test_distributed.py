"""Trainings in processes of their own: torchrun on this machine, gloo, no GPU. What one process computes,
several must, whatever spreads them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io.core import Version

from rlaifv_kedro.datasets import Chunk, Complete, PairStore, PairStoreDataset
from rlaifv_kedro.datasets.pair_store import with_keys
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import ComputeParams, LaunchParams, LoraParams, TransformersParams
from rlaifv_kedro.preference.reference import expected_fingerprint
from rlaifv_kedro.training.distributed import deepspeed_config, problem_for_deepspeed
from rlaifv_kedro.training.launch import LOG, REFERENCE, SPEC, _wait, run_training
from rlaifv_kedro.training.numerics import compute_as_training_does
from rlaifv_kedro.training.resume import saved_checkpoints
from rlaifv_kedro.training.training import Ran, TrainingResult
from rlaifv_kedro.training.worker import RESULT, TrainingSpec, locked, run
from tiny_training import PARAMS, reference_of, weights

PROJECT = Path(__file__).parents[2]
ZERO = {
    stage: str(PROJECT / f"conf/deepspeed/{stage}.json")
    for stage in ("zero2", "zero3", "zero2_offload", "zero3_offload")
}
TWO = LaunchParams(processes=2)
# 12 pairs, 4 a step, 2 a forward pass: two passes of one process, or one of each of two.
STEPS = {"micro_batch_size": 2, "learning_rate": 2e-3}
WATCHED = ["loss", "reward_margin", "reward_accuracy", "log_ratio_chosen", "log_ratio_rejected"]

Trainer = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def store(pairs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """The twelve pairs in two files."""
    dataset = PairStoreDataset(
        str(tmp_path_factory.mktemp("pairs") / "pairs"), "training_pairs", Version("run", "run")
    )
    whole = with_keys(
        pairs.assign(origin_dataset="", origin_split=None, source="own", source_idx=pairs["idx"])
    )
    dataset.save(Chunk("00000", whole[:7]))
    dataset.save(Chunk("00001", whole[7:]))
    dataset.save(Complete(["00000", "00001"]))
    return dataset.load()


@pytest.fixture
def make_spec(tiny: Path, store: PairStore) -> Callable[..., TrainingSpec]:
    def make(folder: Path, dtype: str = "float32", **changes: Any) -> TrainingSpec:
        params = PARAMS.model_copy(update=STEPS | changes)
        compute = ComputeParams(device="cpu", dtype=dtype, threads=1)
        mark = expected_fingerprint(tiny, store, load_model(tiny, device="cpu", dtype=dtype), params, dtype)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        return TrainingSpec(
            policy=tiny,
            pairs=store.files,
            reference=folder / "logs" / REFERENCE,
            fingerprint=mark,
            folder=folder / "work",
            logs=folder / "logs",
            seed=5,
            training=params,
            model=TransformersParams(),
            compute=compute,
        )

    return make


@pytest.fixture
def training(
    make_spec: Callable[..., TrainingSpec], store: PairStore, tiny: Path, pairs: pd.DataFrame
) -> Trainer:
    def run(folder: Path, dtype: str = "float32", **changes: Any) -> TrainingResult:
        spec = make_spec(folder, dtype, **changes)
        model = load_model(tiny, device="cpu", dtype=dtype)
        compute_as_training_does(model, spec.training, dtype)
        return run_training(spec, store, reference_of(model, pairs))

    return run


@pytest.mark.distributed
@pytest.mark.parametrize("lora", [None, LoraParams(rank=4, dropout=0.0)], ids=["full", "lora"])
def test_every_engine_computes_what_one_process_does(
    training: Trainer, tmp_path: Path, lora: LoraParams | None
) -> None:
    """Losses and rewards of all six steps, and the weights of the last checkpoint. Sums in another order:
    tolerances are those of float32. With what the recipes for real models have and the miniature hasn't:
    gradient checkpointing, batches made by processes of their own.
    """
    alone = training(tmp_path / "alone", lora=lora)
    assert alone.ran == Ran(1, "none")
    file = "model.safetensors" if lora is None else "adapter_model.safetensors"
    expected = weights(tmp_path / "alone/work/checkpoint-6", file)
    assert alone.log["reward_margin"].iloc[-1] > 0.05  # it moved
    for engine, changes in {
        "ddp": {},
        "zero2": {"deepspeed": ZERO["zero2"]},
        "zero3": {"deepspeed": ZERO["zero3"]},
    }.items():
        folder = tmp_path / engine
        found = training(
            folder, lora=lora, launch=TWO, gradient_checkpointing=True, dataloader_num_workers=1, **changes
        )
        assert found.ran == Ran(2, engine)
        assert found.checkpoints == alone.checkpoints
        np.testing.assert_allclose(
            found.log[WATCHED], alone.log[WATCHED], rtol=2e-3, atol=2e-5, err_msg=engine
        )
        np.testing.assert_allclose(
            found.log["learning_rate"], alone.log["learning_rate"], rtol=1e-6, err_msg=engine
        )
        last = weights(folder / "work/checkpoint-6", file)
        assert last.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_allclose(
                last[name].float(), weight.float(), atol=2e-4, err_msg=f"{engine}: {name}"
            )
        assert {p.name for p in (folder / "work/checkpoint-6").iterdir()} == {
            p.name for p in (tmp_path / "alone/work/checkpoint-6").iterdir()
        }
        said = json.loads((folder / "logs" / RESULT).read_text())
        assert (said["world_size"], said["engine"]) == (2, engine)


@pytest.mark.distributed
def test_bfloat16_keeps_the_references_exact(training: Trainer, tmp_path: Path) -> None:
    """DeepSpeed's Trainer rounds the batch's numbers to 8 bits, log-probs too if they aren't kept from it.
    At the start the loss is ln 2.
    """
    alone = training(tmp_path / "alone", dtype="bfloat16", epochs=1)
    spread = training(tmp_path / "zero2", dtype="bfloat16", epochs=1, launch=TWO, deepspeed=ZERO["zero2"])
    for result in (alone, spread):
        assert result.log["loss"].iloc[0] == pytest.approx(np.log(2), abs=0.02)
    np.testing.assert_allclose(spread.log["loss"], alone.log["loss"], atol=0.05)


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["zero2_offload", "zero3_offload"])
def test_offloading_changes_nothing(training: Trainer, tmp_path: Path, stage: str) -> None:
    """On a CPU everything lies in host memory already; that the files are accepted and compute the same is
    what can be tried here.
    """
    alone = training(tmp_path / "alone", epochs=1)
    found = training(tmp_path / stage, epochs=1, launch=TWO, deepspeed=ZERO[stage])
    assert found.ran.engine == stage.removesuffix("_offload")
    np.testing.assert_allclose(found.log[WATCHED], alone.log[WATCHED], rtol=2e-3, atol=2e-5)


PARENT = """
import sys
import pandas as pd
from pathlib import Path
from rlaifv_kedro.datasets import PairStore
from rlaifv_kedro.training.launch import run_training
from rlaifv_kedro.training.worker import TrainingSpec
spec = TrainingSpec.model_validate_json(Path(sys.argv[1]).read_text())
run_training(spec, PairStore.open(spec.pairs), pd.read_parquet(sys.argv[2]))
"""


class Parent:
    """``run_training`` in a process that can be killed."""

    def __init__(self, spec: TrainingSpec, reference: pd.DataFrame, folder: Path):
        (folder / "given.json").write_text(spec.model_dump_json())
        reference.to_parquet(folder / "given.parquet")
        self.folder = spec.folder
        command = [sys.executable, "-c", PARENT, str(folder / "given.json"), str(folder / "given.parquet")]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait_for(self, checkpoint: str) -> None:
        until = time.monotonic() + 240
        while not (self.folder / checkpoint / "saved.json").is_file():
            assert self.process.poll() is None and time.monotonic() < until
            time.sleep(0.005)

    def workers(self) -> list[int]:
        """Processes that hold this training's spec, and are not the one that was killed."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.folder.parent / "logs" / SPEC) in line:
                found.append(int(path.parent.name))
        return found


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("engine", "lora", "pack"),
    [("ddp", None, "prompt"), ("zero2", LoraParams(rank=4, dropout=0.1), "pair"), ("zero3", None, "pair")],
    ids=["ddp-full", "zero2-lora", "zero3-full"],
)
def test_killed_and_resumed_it_has_the_losses_of_the_whole(
    training: Trainer,
    make_spec: Callable[..., TrainingSpec],
    reference: pd.DataFrame,
    tmp_path: Path,
    engine: str,
    lora: LoraParams | None,
    pack: str,
) -> None:
    """kill -9 of the node's process while its workers train: the kernel ends them, and the same training goes
    on from the last checkpoint. Of three steps an epoch and a checkpoint every four, most are in the middle
    of one.
    """
    changes = {
        "launch": TWO,
        "lora": lora,
        "pack": pack,
        "epochs": 10,
        "checkpoint_every": 4 / 3,
        "dataloader_num_workers": 1,
    }
    changes |= {} if engine == "ddp" else {"deepspeed": ZERO[engine]}
    whole = training(tmp_path / "whole", **changes)
    parent = Parent(make_spec(tmp_path / "killed", **changes), reference, tmp_path)
    parent.wait_for("checkpoint-4")
    parent.process.send_signal(signal.SIGKILL)
    parent.process.wait()
    done = len(list((tmp_path / "killed/work").glob("checkpoint-*/saved.json")))
    assert done < 8, "it was over before the kill"
    resumed = training(tmp_path / "killed", **changes)
    assert not parent.workers()
    pd.testing.assert_frame_equal(resumed.log, whole.log)
    assert resumed.checkpoints == whole.checkpoints and len(whole.checkpoints) == 8
    assert weights_equal(tmp_path, "adapter_model.safetensors" if lora else "model.safetensors")


def weights_equal(folder: Path, name: str) -> bool:
    return (folder / "whole/work/checkpoint-30" / name).read_bytes() == (
        folder / "killed/work/checkpoint-30" / name
    ).read_bytes()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("engine", "pattern"),
    [("ddp", "rng_state_1.pth"), ("zero2", "*rank_1*optim_states.pt"), ("zero3", "*model_states.pt")],
)
def test_a_damaged_state_of_a_process_is_named_and_the_checkpoint_before_is_taken(
    training: Trainer,
    make_spec: Callable[..., TrainingSpec],
    reference: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    pattern: str,
) -> None:
    """kill -9, then one bit of what one process wrote into the newest checkpoint is another."""
    changes: dict[str, Any] = {"launch": TWO, "epochs": 10, "checkpoint_every": 4 / 3}
    changes |= {} if engine == "ddp" else {"deepspeed": ZERO[engine]}
    whole = training(tmp_path / "whole", **changes)
    parent = Parent(make_spec(tmp_path / "killed", **changes), reference, tmp_path)
    parent.wait_for("checkpoint-8")
    parent.process.send_signal(signal.SIGKILL)
    parent.process.wait()
    with locked(tmp_path / "killed/work"):  # its processes have ended
        saved = saved_checkpoints(tmp_path / "killed/work")
    assert 2 <= len(saved) < 8, "it was over before the kill"
    damaged = next(saved[-1][1].rglob(pattern))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    resumed = training(tmp_path / "killed", **changes)
    said = f"{damaged.relative_to(saved[-1][1])} is damaged: it is not what saved.json says"
    assert said in caplog.text and f"goes on from {saved[-2][1].name}" in caplog.text
    pd.testing.assert_frame_equal(resumed.log, whole.log)
    assert weights_equal(tmp_path, "model.safetensors")


STARTS = """
import sys
import torch
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.training.training import _refuse_different_starts
rank, own, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
try:
    _refuse_different_starts(own)
except UserError as error:
    print(error.message)
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.parametrize("starts", [(4, 4), (4, 0)])
def test_processes_that_were_told_different_starts_are_refused(
    tmp_path: Path, starts: tuple[int, int]
) -> None:
    """A person has started the second host before the run was resumed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTS, str(rank), str(own), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(starts)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        assert ("would start at different steps: [4, 0]" in said) is (starts == (4, 0))


@pytest.mark.distributed
def test_a_finished_training_is_not_begun_again(training: Trainer, tmp_path: Path) -> None:
    """Killed after the last step, before the node has saved what it says: DeepSpeed's states are gone,
    which it would refuse to resume without.
    """
    changes = {"epochs": 1, "launch": TWO, "deepspeed": ZERO["zero2"]}
    first, second = training(tmp_path, **changes), training(tmp_path, **changes)
    assert second.checkpoints == first.checkpoints
    assert second.ran == Ran(2, "zero2")
    pd.testing.assert_frame_equal(second.log, first.log)


def test_under_zero3_the_model_begins_in_host_memory_and_trains_on_the_gpu(
    make_spec: Callable[..., TrainingSpec],
    store: PairStore,
    reference: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[Any, ...]] = []
    monkeypatch.setattr("rlaifv_kedro.models.loading.torch_device", lambda device: device)
    monkeypatch.setattr("rlaifv_kedro.training.training.train", lambda *args, **_: trained.append(args))
    spec = make_spec(tmp_path, deepspeed=ZERO["zero3"])
    run(
        spec.model_copy(update={"compute": ComputeParams(device="cuda", dtype="float32")}),
        store,
        reference,
        print,
    )
    [(model, _, _, job, _)] = trained
    assert (model.module.device.type, job.device) == ("cpu", "cuda")


def test_checkpoints_without_weights_are_refused(tmp_path: Path) -> None:
    """Trainer would save DeepSpeed's states alone, with a warning."""
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(UserError, match="stage3_gather_16bit_weights_on_model_save"):
        deepspeed_config(PARAMS.model_copy(update={"deepspeed": str(tmp_path / "zero3.json")}))


def test_a_hangup_that_is_ignored_ends_nothing(tmp_path: Path) -> None:
    """``nohup kedro run``, and the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert _wait([sys.executable, "-c", "import time; time.sleep(2)"], tmp_path, print) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.distributed
def test_a_signal_reaches_the_processes(
    make_spec: Callable[..., TrainingSpec], reference: pd.DataFrame, tmp_path: Path
) -> None:
    parent = Parent(make_spec(tmp_path, launch=TWO, epochs=200, checkpoint_every=1), reference, tmp_path)
    parent.wait_for("checkpoint-3")
    assert len(parent.workers()) >= 3  # torchrun and its two
    parent.process.send_signal(signal.SIGTERM)
    assert parent.process.wait(60) == -signal.SIGTERM
    assert not parent.workers()


@pytest.mark.distributed
def test_two_hosts_meet(
    training: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both on this machine. The second is started by a person, with the command that the log of the first
    tells.
    """
    alone = training(tmp_path / "alone", epochs=1)
    second: list[subprocess.Popen] = []

    def start_second(launch: LaunchParams, command: list[str]) -> None:
        second.append(subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL))

    monkeypatch.setattr("rlaifv_kedro.training.launch._log_command_of_other_hosts", start_second)
    found = training(
        tmp_path / "hosts", epochs=1, launch=LaunchParams(processes=1, hosts=2, address="localhost:29417")
    )
    assert second[0].wait(60) == 0
    assert found.ran == Ran(2, "ddp")
    np.testing.assert_allclose(found.log[WATCHED], alone.log[WATCHED], rtol=2e-3, atol=2e-5)


@pytest.mark.distributed
def test_a_mistake_in_a_process_is_told_as_one(training: Trainer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training collapsed at step .*collapse_log_ratio=-0.001"):
        training(tmp_path, launch=TWO, collapse_log_ratio=-0.001, learning_rate=5e-3, epochs=4)


@pytest.mark.distributed
def test_a_process_that_dies_leaves_its_log(training: Trainer, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)exit status 1. The end of .*training.log:.*No module named no_such_package"
    ):
        training(
            tmp_path,
            launch=LaunchParams(
                processes=2, prefix=["env", "PYTHONSTARTUP=", sys.executable, "-m", "no_such_package"]
            ),
        )


def test_fewer_processes_than_asked_for_are_refused(training: Trainer, tmp_path: Path) -> None:
    """``accelerate launch --cpu`` does this: it exits with 0, and one process has trained. Here a prefix
    swallows the launcher.
    """
    script = tmp_path / "launcher.py"
    said = {"world_size": 1, "engine": "none"}
    script.write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'logs' / RESULT)!r}).write_text({json.dumps(said)!r})\n"
    )
    with pytest.raises(
        UserError,
        match=r"was to run as \{'world_size': 2, 'engine': 'ddp'\}, but ran as \{'world_size': 1, 'engine': "
        r"'none'\}",
    ):
        training(tmp_path, launch=LaunchParams(processes=2, prefix=[sys.executable, str(script)]))


def test_two_processes_train_as_one(training: Trainer, tmp_path: Path) -> None:
    """The one launched training of the default run; the others are in ``make test-distributed``."""
    alone = training(tmp_path / "alone", epochs=1)
    found = training(tmp_path / "two", epochs=1, launch=TWO)
    assert found.ran == Ran(2, "ddp")
    np.testing.assert_allclose(found.log[WATCHED], alone.log[WATCHED], rtol=2e-3, atol=2e-5)
    assert (tmp_path / "two/logs" / LOG).is_file()


@pytest.mark.distributed
def test_a_process_that_is_killed_is_told_as_that(training: Trainer, tmp_path: Path) -> None:
    """As the kernel does when memory runs out: kill -9 of one of two, in the middle of the training."""
    folder, killed = tmp_path / "work", []

    def kill() -> None:
        until = time.monotonic() + 240
        while not (folder / "checkpoint-3" / "saved.json").is_file() and time.monotonic() < until:
            time.sleep(0.01)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = path.read_bytes().decode(errors="replace").split("\0")
                if str(tmp_path / "logs" / SPEC) in line and "torch.distributed.run" not in line:
                    killed.append(int(path.parent.name))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(UserError, match=r"a training process was killed \(signal 9\).*training.log"):
        training(tmp_path, launch=TWO, epochs=400, checkpoint_every=1)
    thread.join()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage is True"),
        ({"zero_optimization": {"stage": 2.0}}, "zero_optimization.stage is 2.0"),
        ({"zero_optimization": "stage"}, "can't be used"),
        ([], "can't be used"),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}},
            "the section optimizer would take the place",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "the section scheduler would take the place"),
        ({"train_batch_size": 64}, "train_batch_size is 64, but by training.batch_size it is 4"),
        ({"train_micro_batch_size_per_gpu": 7}, "by training.micro_batch_size it is 4"),
        ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps is 3"),
        ({"gradient_clipping": 0.3}, 'by training.max_grad_norm it is 1.0. Write "auto"'),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true, but by compute.dtype it is float32"),
        ({"fp16": {"enabled": "true"}}, 'fp16.enabled is "true", but by compute.dtype it is float32'),
        ({"bf16": True}, "bf16 is True"),
    ],
)
def test_a_configuration_that_contradicts_the_parameters_is_refused(
    config: Any, told: str, tmp_path: Path
) -> None:
    """DeepSpeed would take its own side, or say so after hours of sampling and labeling."""
    whole = {"zero_optimization": {"stage": 2}, **config} if isinstance(config, dict) else config
    (tmp_path / "zero.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=re.escape(told)):
        deepspeed_config(PARAMS.model_copy(update={"deepspeed": str(tmp_path / "zero.json")}), "float32")


@pytest.mark.parametrize("text", ["", "{", "\ufeff{}", "null", "[" * 100_000, '{"zero_optimization": []}'])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(text)
    for path in (tmp_path / "zero.json", tmp_path, tmp_path / "gone.json"):
        with pytest.raises(UserError, match="can't be used"):
            deepspeed_config(PARAMS.model_copy(update={"deepspeed": str(path)}))


def test_what_the_parameters_decide_is_filled_in(tmp_path: Path) -> None:
    """LLaVA's file, which names no clipping: without it DeepSpeed would clip nothing."""
    given = {
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "sub_group_size": 1e9},
    }
    (tmp_path / "zero.json").write_text(json.dumps(given))
    config = deepspeed_config(
        PARAMS.model_copy(update={"deepspeed": str(tmp_path / "zero.json")}), "bfloat16"
    )
    assert config == {**given, "gradient_clipping": "auto", "zero_force_ds_cpu_optimizer": False}
    for path in ZERO.values():
        assert deepspeed_config(PARAMS.model_copy(update={"deepspeed": path}), "bfloat16") is not None


def test_deepspeeds_own_check_is_asked() -> None:
    pytest.importorskip("deepspeed")
    problem = problem_for_deepspeed({"zero_optimization": {"stage": 2, "overlap_com": True}})
    assert problem == "zero_optimization.overlap_com: Extra inputs are not permitted"
    for path in ZERO.values():
        assert problem_for_deepspeed(json.loads(Path(path).read_text())) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("auto"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.fixed_dictionaries(
    {"zero_optimization": st.fixed_dictionaries({"stage": st.sampled_from([0, 1, 2, 3, "2", None])}) | JSON},
    optional=dict.fromkeys(("bf16", "fp16", "train_batch_size", "gradient_clipping", "optimizer"), JSON),
)


@settings(max_examples=100)
@given(content=JSON | SECTIONS)
def test_any_json_is_a_configuration_or_a_mistake_of_the_user(content: Any, tmp_path: Path) -> None:
    """Fuzz: what comes out names a stage and what the parameters decide; else a UserError names the file."""
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(content))
    try:
        config = deepspeed_config(PARAMS.model_copy(update={"deepspeed": str(path)}), "float32")
    except UserError as error:
        assert str(path) in error.message
    else:
        assert config["zero_optimization"]["stage"] in (1, 2, 3)
        assert config["bf16"]["enabled"] in ("auto", False)
        assert config["train_batch_size"] in ("auto", PARAMS.batch_size)


def test_a_launcher_that_is_not_there_is_named(training: Trainer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="srunn, which starts the training's processes, can't be run"):
        training(tmp_path, launch=LaunchParams(processes=2, prefix=["srunn"]))


COMPILE = """
import sys
from pathlib import Path
from rlaifv_kedro.training.distributed import compile_extension
compile_extension(Path(sys.argv[1]))
"""


@pytest.mark.distributed
def test_a_killed_compilation_is_not_waited_for(tmp_path: Path) -> None:
    """What torch leaves behind would have the next process wait for ever."""
    command = [sys.executable, "-c", COMPILE, str(tmp_path)]
    mark = tmp_path / "deepspeed_shm_comm/lock"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert mark.exists()
    two = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in two] == [0, 0]
    assert not mark.exists()
    assert list(mark.parent.glob("*.so"))
