"""The dry run of whole recipes, none of whose models and tables are there."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_recipes import RECIPES, real_size

from rlaifv_kedro.commands import cli
from rlaifv_kedro.commands.plan import WIDTH
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preflight.assumptions import GPUS, Assumptions, assumed
from rlaifv_kedro.preflight.plan import Plan, Row, plan_run
from rlaifv_kedro.preflight.shapes import LLAMA, LLAVA, MINICPM, OMNILMM, QWEN, known_size

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone, without models and tables, whatever lies in this one's data folder; the working folder."""
    project = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "conf", project / "conf")
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "src").mkdir()  # the code is imported from where the tests have it
    for shipped in (ROOT / "data/06_models/miniature/seed_0").glob("*/shipped"):
        shutil.copytree(shipped, project / shipped.relative_to(ROOT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        yield project


def planned(
    env: str | None,
    names: str = "rlaif_loop",
    params: dict[str, Any] | None = None,
    gpus: int | None = None,
    gpu: str = "a100-80gb",
    **replaced: Any,
) -> Plan:
    return plan_run(Path.cwd(), env, params or {}, [names], gpu, gpus, Assumptions(**replaced))


def row(plan: Plan, stage: str) -> Row:
    return next(row for row in plan.rows if row.stage == stage)


@pytest.mark.parametrize(
    ("name", "size"),
    [("llava", LLAVA), ("omnilmm", OMNILMM), ("minicpm", MINICPM), ("llama", LLAMA), ("qwen", QWEN)],
)
def test_the_sizes_by_name_are_those_of_the_real_shapes(name: str, size: Any) -> None:
    real = real_size(name)
    for field in ("parameters", "hidden", "layers", "kv_width", "vocabulary", "image_tokens", "patches"):
        assert getattr(size, field) == getattr(real, field), field
    towers = ["vision_tower", "visual", "vpm"]
    assert (size.frozen(towers), size.adapters(64)) == (real.frozen(towers), real.adapters(64))


def test_a_name_may_be_a_path_a_hub_s_or_end_otherwise() -> None:
    assert (
        known_size("/data/llava-1.5-7b-hf")
        is known_size("liuhaotian/llava-v1.5-7b")
        is known_size("openbmb/RLAIF-V-7B")
        is LLAVA
    )
    assert known_size("meta-llama/Meta-Llama-3-8B-Instruct") is LLAMA
    assert known_size("llava-onevision") is None


def test_a_prompt_that_is_a_pipe_is_refused() -> None:
    os.mkfifo("prompt.txt")  # would wait for ever
    with pytest.raises(UserError, match="prompt.txt: can't read the prompt: it is a pipe"):
        planned("llava15_7b", params={"feedback": {"divide_prompt": "prompt.txt"}})


@pytest.mark.parametrize("env", [*RECIPES, None, "test"])
def test_every_recipe_can_be_planned(env: str | None) -> None:
    plan = planned(env)
    assert [r.stage for r in plan.rows][:5] == [
        "sample_candidates",
        "divide",
        "verify_claims",
        "compute_reference",
        "train_policy",
    ]
    assert all(r.loop_gpu_hours > 0 for r in plan.rows if r.stage != "divide" or env in RECIPES)
    assert all(model.size is not None and "assumed" not in model.told_by for model in plan.models)
    assert plan.total("loop_disk") <= plan.peak_disk


def test_the_loop_of_llava_is_four_times_4000_prompts() -> None:
    """4,000 prompts x 10 candidates x 100 tokens; 6 claims each; 2 replies each; at most 2 pairs a prompt, 8
    a step, 4 epochs, 16 checkpoints. An iteration after the first measures two policies more, the base and
    its own start; the first one, where these are one, one more.
    """
    plan = planned("llava15_7b")
    assert (plan.iterations, plan.prompts) == (4, 4000)
    calls = {r.stage: r.calls for r in plan.rows}
    assert calls["sample_candidates"] == {"prompts": 4000, "candidates": 40_000}
    assert calls["divide"] == {"replies": 80_000}
    assert calls["verify_claims"] == {"images": 4000, "yes/no questions": 240_000}
    assert calls["compute_reference"] == {"pairs": 8000, "answers": 16_000}
    assert calls["train_policy"] == {"pairs": 8000, "steps": 4000, "checkpoints": 16}
    assert calls["answer_with_checkpoints"] == {"policies": 18, "answers": 18 * 300}
    assert row(plan, "answer_with_checkpoints").loop_calls["policies"] == 17 + 3 * 18
    assert row(plan, "sample_candidates").loop_calls == {"prompts": 16_000, "candidates": 160_000}
    assert row(plan, "base policy, once a loop").loop_calls["test answers"] == 400


def test_tokens_of_llava_by_hand() -> None:
    """A prefix is 576 image tokens and 64 of text; OmniLMM's 64 + 64.

    Sampling: 4,000 x 640 once, 40,000 x 640 apart. Checking: 4,000 x (128 + 60 x 25), apart 240,000 x 153.
    Reference: 4,000 x (640 + 4 x 100), apart 16,000 x 740. Training: 4 epochs x 8,000 x (640 + 200), apart
    64,000 x 740; with packs by prompt 4 x 4,000 x (640 + 400).
    """
    plan = planned("llava15_7b")
    expected = {
        "sample_candidates": (2_560_000, 25_600_000, 4_000_000),
        "verify_claims": (6_512_000, 36_720_000, 0),
        "compute_reference": (4_160_000, 11_840_000, 0),
        "train_policy": (26_880_000, 47_360_000, 0),
    }
    assert {
        stage: (r.prefill, r.apart, r.generated) for stage in expected for r in [row(plan, stage)]
    } == expected
    assert (
        row(planned("llava15_7b", params={"training": {"pack": "prompt"}}), "train_policy").prefill
        == 16_640_000
    )


def test_training_hours_of_llava_by_hand() -> None:
    """4 x (2 x 6.497e9 x 26.88e6 + 4 x 32 x 4096 x 32,000 x (640 x 641 / 2 + 2 x (100 x 640 + 5,050)) + 2 x
    131.3e6 x 6.4e6) and the tower's 2 x 303.5e6 x 576 x 32,000 operations: 1.443e18 at 30 % of 312e12 are
    15,417 s. 16 checkpoints of 27.6 GB with 54.1 GB of Adam's moments, and the policy read twice, at 1 GB/s:
    1,364 s.
    """
    assert row(planned("llava15_7b"), "train_policy").gpu_hours == pytest.approx(
        (15_417 + 1_364) / 3600, rel=0.005
    )


def test_small_passes_with_adapters_wait_for_the_cpu() -> None:
    """32,000 pairs by twos in 32 layers of 13.5 ms are 1.92 hours; of an H100's computing there is less."""
    lora = {"training": {"lora": {"rank": 64}, "learning_rate": 1e-5}}
    by_twos, by_eights = (
        planned("llava15_7b", gpu="h100", params={"training": lora["training"] | {"micro_batch_size": size}})
        for size in (2, 8)
    )
    assert row(by_twos, "train_policy").gpu_hours == pytest.approx(1.92, abs=0.1)
    assert row(by_eights, "train_policy").gpu_hours < 1.5
    told = [[note for note in plan.notes if "micro_batch_size" in note] for plan in (by_twos, by_eights)]
    assert [len(notes) for notes in told] == [1, 0]


def test_the_policy_labels_itself() -> None:
    plan = planned("rlaifv_12b")
    assert [model.role for model in plan.models] == ["policy", "splitter", "question_writer"]
    assert row(plan, "verify_claims").prefill == 4000 * (64 + 64 + 60 * 25)


def test_a_server_is_no_gpu_of_ours_and_gets_every_prompt_whole() -> None:
    server = {"backend": "openai", "url": "http://127.0.0.1:8000/v1", "model": "x"}
    plan = planned(
        "llava15_7b",
        params={"models": {"splitter": {**server, "path": None}, "labeler": server, "question_writer": None}},
    )
    for stage in ("divide", "verify_claims"):
        assert row(plan, stage).gpu_hours == 0
        assert row(plan, stage).prefill == row(plan, stage).apart > 0
    assert [m.told_by for m in plan.models if m.role != "policy"] == ["asked of a server: no GPU of ours"] * 2


def test_gpus_that_train_together_shorten_the_clock_not_the_gpu_hours() -> None:
    one, eight = planned("llava15_7b"), planned("llava15_7b", gpus=8)
    alone, together = row(one, "train_policy"), row(eight, "train_policy")
    hours = one.total("loop_gpu_hours")
    assert eight.total("loop_gpu_hours") == hours == pytest.approx(one.total("loop_clock_hours"))
    reading = (16 * (27.6 + 54.1) + 2 * 27.6) / 3600  # GB at 1 GB/s, an iteration: see above
    assert together.clock_hours == pytest.approx((alone.gpu_hours - reading) / 8 + reading, rel=0.01)
    saved = alone.loop_gpu_hours - together.loop_clock_hours
    assert eight.total("loop_clock_hours") == pytest.approx(hours - saved)
    assert any(note.startswith("on one GPU: sample_candidates, divide, ") for note in eight.notes)
    launched = planned("llava15_7b", params={"training": {"launch": {"processes": 4}, "micro_batch_size": 2}})
    assert launched.fleet.gpus == 4


def test_workers_share_what_is_in_chunks() -> None:
    """40 chunks of 100 prompts on 16 workers take three rounds, the last for 8 of them; 18 policies x 3
    chunks of 100 prompts four rounds, in which a worker reads two policies; 4 chunks of 1,000 prompts one.
    """
    ray = {"compute": {"engine": "ray", "ray": {"workers": 16}}}
    plan = planned("llava15_7b", params=ray)
    sampling = row(plan, "sample_candidates")
    trained = 27.6 / 3600  # hours for a trained policy's files at 1 GB/s
    assert sampling.clock_hours == pytest.approx((sampling.gpu_hours - trained) * 3 / 40 + trained, rel=0.01)
    selecting = row(plan, "answer_with_checkpoints")
    assert selecting.clock_hours == pytest.approx(
        (selecting.gpu_hours - 18 * trained) * 4 / 54 + 2 * trained, rel=0.01
    )
    assert plan.total("loop_gpu_hours") == pytest.approx(planned("llava15_7b").total("loop_gpu_hours"))
    told = "\n".join(plan.notes)
    assert "compute_reference: 4 chunks keep 4 of 16 workers busy. Lower training.chunk_size." in told
    assert "sample_candidates: 40 chunks" not in told  # 13 of 16 on average
    assert "on one GPU: train_policy. training.launch.processes trains on several." in told


def test_servers_of_vllm_share_what_they_are_asked() -> None:
    """Two servers of four GPUs label eight times as fast; a policy answers the test prompts in this process,
    whoever samples. Without a number there are as many servers as there is room for.
    """
    serving = {"backend": "vllm", "path": "x/llava-v1.6-34b-hf", "serving": {"gpus_per_server": 4}}
    params = {"models": {"labeler": serving, "policy": {"backend": "vllm"}}}
    one = planned("llava15_7b")
    plan = planned("llava15_7b", params=params, gpus=8)
    assert (plan.fleet.servers("labeler"), plan.fleet.servers("policy"), plan.fleet.largest) == (2, 8, 8)
    labeling = row(plan, "verify_claims")
    reading = 2 * next(m.size.parameters for m in plan.models if m.role == "labeler") / 1e9 / 3600
    assert labeling.clock_hours == pytest.approx((labeling.gpu_hours - reading) / 8 + reading)
    assert row(plan, "sample_candidates").clock_hours < row(one, "sample_candidates").clock_hours / 5
    assert row(plan, "answer_test_prompts").clock_hours == row(plan, "answer_test_prompts").gpu_hours
    params["compute"] = {"engine": "ray", "ray": {"gpus_per_worker": 4}}
    both = planned("llava15_7b", params=params, gpus=8).fleet
    assert (both.workers, both.servers("labeler"), both.servers("policy"), both.largest) == (2, 1, 4, 8)
    assert str(both) == (
        "2 Ray workers of 4 GPUs; policy by vLLM on 4 servers of 1 GPU in each worker; labeler by vLLM on 1 "
        "server of 4 GPUs in each worker; 8 GPUs that train together"
    )


def test_a_stage_alone_and_what_is_no_stage() -> None:
    assert [r.stage for r in planned("llava15_7b", "feedback").rows] == ["divide", "verify_claims"]
    with pytest.raises(UserError, match="nothing to plan"):
        planned("llava15_7b", "reporting")


def test_what_is_assumed_changes_the_plan_and_is_checked() -> None:
    assert row(planned("llava15_7b", claims=12), "verify_claims").calls["yes/no questions"] == 480_000
    assert (
        row(planned("llava15_7b", answer_tokens=9999), "sample_candidates").generated == 40_000 * 512
    )  # data_generation.max_new_tokens
    assert row(planned("llava15_7b", pairs_per_prompt=1), "train_policy").calls["steps"] == 2000
    with pytest.raises(UserError, match="mfu_prefil: unknown parameter; did you mean mfu_prefill"):
        assumed({"mfu_prefil": 0.5})
    with pytest.raises(UserError, match="mfu_train=2"):
        assumed({"mfu_train": 2})


def test_the_command_on_a_terminal_and_as_json() -> None:
    arguments = ["plan", "--env", "llava15_7b", "--gpu", "A100-80gb", "--assume", "image_bytes=100000"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for said in (
        "4 iterations x 4,000 prompts",
        "240,000 yes/no questions",
        "GPU hours: ",
        "Disk: ",
        "its name; not here yet",
        "layer_ms ",
    ):
        assert said in done.stdout, said
    assert "training takes about 127 GB of memory on one GPU" in done.stdout
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert (told["iterations"], told["gpu"]["title"], told["assumptions"]["image_bytes"]) == (
        4,
        GPUS["a100-80gb"].title,
        100_000,
    )
    assert told["stages"][0]["disk"] == 4000 * 100_000
    assert told["totals"]["loop_gpu_hours"] == pytest.approx(
        sum(stage["loop_gpu_hours"] for stage in told["stages"])
    )
    assert CliRunner().invoke(cli, ["plan", "--gpu", "abacus"]).exit_code == 1
    assert CliRunner().invoke(cli, ["plan", "--env", "llava"]).exit_code == 1


def test_the_sum_is_that_of_the_rows_above_it() -> None:
    """Of one iteration, and of the base policy that is measured once."""
    done = CliRunner().invoke(cli, ["plan", "--env", "llava15_7b", "--pipelines", "evaluation"])
    generated = re.findall(r"^ (\S+) .* (\d+) k +[\d.]+ *$", done.stdout, re.MULTILINE)
    assert generated == [
        ("answer_with_checkpoints", "510"),
        ("answer_test_prompts", "40"),
        ("base", "40"),
        ("all", "590"),
    ]


def test_the_docs_show_what_the_command_says() -> None:
    """Lines of `plan --env llava15_7b --gpu a100-80gb`."""
    docs = [line.rstrip() for line in (ROOT / "docs/recipes.md").read_text().splitlines()]
    done = CliRunner().invoke(cli, ["plan", "--env", "llava15_7b", "--gpu", "a100-80gb"])
    said = [line.rstrip() for line in done.stdout.splitlines()]
    assert [line for line in said if line and line not in docs] == []
