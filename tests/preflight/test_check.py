"""The check before a run: a project with a recipe and tiny models in the places of the real ones, and then
one thing missing after another.
"""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog
from safetensors.numpy import save_file

from pair_files import published, write_published
from rlaifv_kedro.commands import cli
from rlaifv_kedro.datasets import PairSourceDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.files_of_checkpoint import read_tensors
from rlaifv_kedro.params import OpenAIParams, Parameters, TransformersParams
from rlaifv_kedro.pipelines import feedback, training
from rlaifv_kedro.preflight import feedback_rules, machine, training_rules
from rlaifv_kedro.preflight.assumptions import Assumptions
from rlaifv_kedro.preflight.checkpoints import UsedModel, look_at
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.inputs import Inputs, _check_entry
from rlaifv_kedro.preflight.machine import GPU
from rlaifv_kedro.preflight.plan import plan_run
from rlaifv_kedro.preflight.rules import findings_of
from rlaifv_kedro.preflight.run import check_run
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Manifest, now
from tiny_sentencepiece import write_tokenizer_model
from whole_recipe import LABELER, POLICY, PROMPTS, SPLITTER, write_json

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests/fixtures/parity"
SMALL = {"compute": {"device": "cpu"}, "loop": {"iterations": 2}, "data_generation": {"prompts": 4}}
RULES = (*training_rules.RULES, *feedback_rules.RULES)
TENSORBOARD = Finding(True, "the package tensorboard is there", "training.report_to")


def check(project: Path, env: str | None = "llava15_7b", **params: Any) -> list[Finding]:
    return check_run(project, env, {**SMALL, **params}, ["rlaif_loop"])


def missing(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if not finding.ok]


def only(findings: list[Finding]) -> Finding:
    """The one thing that is missing."""
    assert len(missing(findings)) == 1, missing(findings)
    return next(finding for finding in findings if not finding.ok)


def test_nothing_is_missing(project: Path) -> None:
    findings = check(project)
    assert missing(findings) == []
    told = [finding.what for finding in findings]
    assert "prompt_pool: 8 prompts, of which the run needs 8" in told
    assert "selection_prompts: 3 rows, all images open" in told
    assert "test_prompts: 4 rows, all images open" in told
    for role in ("policy", "labeler", "splitter", "question_writer"):
        assert any(
            line.startswith(f"{role}: 0.5") and "million parameters, all files there" in line for line in told
        ), role
    assert any(line.startswith("disk: the run writes about") and "checkpoints" in line for line in told)


def test_all_that_is_missing_is_told_at_once(project: Path) -> None:
    shutil.rmtree(project / LABELER)
    shutil.rmtree(project / SPLITTER)
    (project / PROMPTS / "prompt_pool.parquet").unlink()
    (project / PROMPTS / "annotations/captions_test.json").unlink()
    findings = check(project)
    expected = {
        "labeler: it is not there",
        "splitter: the folder is not there",
        "prompt_pool: it is not there",
        "test_captions: it is not there",
    }
    assert set(missing(findings)) == expected
    labeler = next(finding for finding in findings if finding.what.startswith("labeler"))
    assert labeler.where == str(LABELER)
    assert (
        labeler.remedy
        == "Get it with: hf download openbmb/OmniLMM-12B --local-dir data/06_models/OmniLMM-12B"
    )
    assert all(finding.remedy for finding in findings if not finding.ok)


def test_the_command_says_it_on_the_terminal_as_json_and_by_its_status(project: Path) -> None:
    params = "compute.device=cpu,loop.iterations=2,data_generation.prompts=4"
    arguments = ["check", "--env", "llava15_7b", "--params", params]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "Everything is there."), done.output
    (project / POLICY / "model.safetensors").unlink()
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["missing"]) == (1, 1)
    assert [f["what"] for f in told["findings"] if not f["ok"]] == ["policy: the folder holds no weights"]
    done = CliRunner().invoke(cli, [*arguments, "--pipelines", "reporting"])
    assert done.exit_code == 1
    assert "missing" in done.output


def test_wrong_parameters_are_all_told(project: Path) -> None:
    finding = only(
        check_run(project, "llava15_7b", {"loop": {"iteration": 2}, "training": {"beta": 0}}, ["rlaif_loop"])
    )
    assert "training.beta=0" in finding.remedy
    assert "did you mean loop.iterations?" in finding.remedy
    assert "no pipeline loop" in only(check_run(project, "llava15_7b", {}, ["loop"])).remedy
    assert "--env llava: there is no such environment. Those of conf are: base, llava15_7b" in (
        only(check_run(project, "llava", {}, ["rlaif_loop"])).remedy
    )


def test_a_run_with_too_few_prompts_stops_before_its_first_node(project: Path) -> None:
    """The pool has 8. The loop would measure the base policy before it draws prompts."""
    params = {**SMALL, "data_generation": {"prompts": 5}}
    with (
        KedroSession.create(project, env="llava15_7b", runtime_params=params) as session,
        pytest.raises(UserError, match="need 10 prompts.* has 8"),
    ):
        session.run(pipeline_names=["rlaif_loop"])
    assert not (project / "data/runs").exists()
    plan = plan_run(project, "llava15_7b", params, ["rlaif_loop"], "h100", None, Assumptions())
    assert "prompt_pool: 8 prompts, of which the run needs 10: it would be refused." in plan.notes
    assert [model.told_by for model in plan.models] == ["its files"] * 4


def test_drawing_the_world_would_overwrite_a_recipe_s_prompts_and_models(project: Path) -> None:
    """Without a name a recipe's run draws none: tests/runs/test_missing.py."""
    findings = check_run(project, "llava15_7b", SMALL, ["miniature"])
    overwritten = {
        finding.what.partition(":")[0] for finding in findings if "would overwrite" in finding.what
    }
    assert overwritten == {
        "prompt_pool",
        *(f"{s}_{n}" for s in ("selection", "test") for n in ("prompts", "instances", "captions")),
        "test_probes",
        "base_policy",
        "labeler",
    }


def test_the_embedded_default_s_inputs_are_made_by_a_run(project: Path) -> None:
    pool = next(finding for finding in check(project, env=None) if finding.what.startswith("prompt_pool"))
    assert not pool.ok
    assert pool.remedy.startswith("Make it with: kedro run --pipelines miniature --to-outputs base_policy,")
    assert " --params compute.device=cpu" in pool.remedy


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(folder: Path) -> None:
    """Two shards in the index, one of them there."""
    names = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / SHARDS[0])
    write_json(
        folder / "model.safetensors.index.json",
        {"weight_map": {**dict.fromkeys(names, SHARDS[0]), "b": SHARDS[1]}},
    )


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder: Path, name: str, **values: Any) -> None:
    write_json(folder / name, {**json.loads((folder / name).read_text()), **values})


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (
            shard,
            "policy: model-00002-of-00002.safetensors is missing, but model.safetensors.index.json names it",
        ),
        (cut, "policy: model.safetensors is damaged ("),
        (lambda folder: (folder / "config.json").write_text("{"), "policy: config.json is not JSON"),
        (
            lambda folder: alter(folder, "config.json", model_type="gpt9"),
            "policy: nothing here can load its architecture, model_type 'gpt9'",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "policy: the tokenizer is missing"),
        (
            lambda folder: alter(folder, "config.json", model_type="mllama"),
            "policy: MllamaForConditionalGeneration reads images by cross-attention",
        ),
        (
            lambda folder: (folder / "processor_config.json").unlink(),
            "policy: the image processor is missing",
        ),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "policy: it has no chat template"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "policy: its processor or tokenizer can't be loaded",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "policy: tokenizer.json is not JSON"),
        (
            lambda folder: alter(folder, "processor_config.json", patch_size=8),
            "policy: a prompt has 81 image tokens",
        ),
    ],
)
def test_a_damaged_checkpoint(whole: Path, tmp_path: Path, damage: Callable[[Path], None], what: str) -> None:
    shutil.copytree(whole / POLICY, tmp_path / "policy")
    damage(tmp_path / "policy")
    findings, *_ = look_at(
        UsedModel(
            "policy",
            str(tmp_path / "policy"),
            "the catalog's base_policy",
            TransformersParams(),
            fetch="hf download it",
        )
    )
    finding = only(findings)
    assert finding.what.startswith(what)
    assert finding.where.startswith(str(tmp_path / "policy"))
    assert finding.remedy


@pytest.mark.parametrize(
    ("layout", "tokens"), [("llava_original", 576), ("omnilmm", 64), ("minicpm_llama3_v25", 640)]
)
def test_the_release_s_layouts_are_known(layout: str, tokens: int, tmp_path: Path) -> None:
    """The fixtures have weights and a config of the release's, and no tokenizer."""
    findings, size, _ = look_at(
        UsedModel("labeler", str(PARITY / layout), "the catalog's labeler", TransformersParams())
    )
    assert missing(findings) == ["labeler: the tokenizer is missing (tokenizer.json or tokenizer.model)"]
    tensors = read_tensors(PARITY / layout / "model.safetensors")
    assert size.parameters == sum(math.prod(tensor.shape) for tensor in tensors.values())
    assert size.image_tokens == tokens


def test_an_original_llava_without_its_vision_tower_names_one_that_must_be_there(tmp_path: Path) -> None:
    shutil.copytree(PARITY / "llava_original", tmp_path / "llava")
    names = {
        name: "pytorch_model.bin"
        for name in read_tensors(tmp_path / "llava/model.safetensors")
        if "vision_tower" not in name
    }
    (tmp_path / "llava/model.safetensors").unlink()
    torch.save({}, tmp_path / "llava/pytorch_model-1.bin")
    write_json(
        tmp_path / "llava/pytorch_model.bin.index.json",
        {"weight_map": dict.fromkeys(names, "pytorch_model-1.bin")},
    )
    alter(tmp_path / "llava", "config.json", mm_vision_tower="/nowhere/clip")
    (tmp_path / "llava/tokenizer.model").write_bytes(b"x")
    findings, *_ = look_at(
        UsedModel("policy", str(tmp_path / "llava"), "the catalog's base_policy", TransformersParams())
    )
    assert only(findings).where == "/nowhere/clip"


def test_adapters_and_what_they_belong_to(whole: Path, tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    role = UsedModel("policy", str(adapters), "the catalog's base_policy", TransformersParams())
    write_json(adapters / "adapter_config.json", {"base_model_name_or_path": str(whole / POLICY)})
    assert missing(look_at(role)[0]) == ["policy: the adapters have no weights"]
    (adapters / "adapter_model.safetensors").write_bytes(b"x")
    assert only(look_at(role)[0]).what.startswith("policy: adapter_model.safetensors is damaged (")
    save_file({"lora": np.zeros(3)}, adapters / "adapter_model.safetensors")
    assert missing(look_at(role)[0]) == []
    write_json(adapters / "adapter_config.json", {"base_model_name_or_path": "/nowhere/base"})
    assert only(look_at(role)[0]).where == "/nowhere/base"
    beside = UsedModel(
        "labeler",
        str(whole / LABELER),
        "the catalog's labeler",
        TransformersParams(adapter="/nowhere/lora", chat_template="/nowhere/t.jinja"),
    )
    assert [finding.where for finding in look_at(beside)[0]] == ["/nowhere/lora", "/nowhere/t.jinja"]
    write_json(adapters / "adapter_config.json", {})  # names no base: it is the role's own
    beside = UsedModel("labeler", str(whole / LABELER), "", TransformersParams(adapter=str(adapters)))
    assert missing(look_at(beside)[0]) == []
    (adapters / "adapter_config.json").unlink()
    assert missing(look_at(beside)[0]) == ["labeler: the folder holds no LoRA adapters"]


def test_a_hub_name_is_looked_for_in_the_cache_and_not_fetched(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[dict[str, Any]] = []

    def nothing(name: str, **options: Any) -> str:
        asked.append(options)
        raise LocalEntryNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    role = UsedModel("splitter", "someone/llama", "models.splitter.path", TransformersParams(), vision=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (note,), size, _ = look_at(role)
    assert (note.ok, size, asked) == (True, None, [{"local_files_only": True}])
    assert "the run will download it" in note.what
    assert "hf download someone/llama" in note.remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in only(look_at(role)[0]).what
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(whole / SPLITTER))
    assert missing(look_at(role)[0]) == []


def test_a_path_of_a_folder_that_is_there_is_no_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    findings, *_ = look_at(
        UsedModel("splitter", "models/llama", "models.splitter.path", TransformersParams(), vision=False)
    )
    assert only(findings).what == "splitter: the folder is not there"


def test_a_model_whose_size_can_t_be_told_is_no_fault(whole: Path, tmp_path: Path) -> None:
    """Of a LLaVA in its original layout, say, whose config leaves out what is as in Llama."""
    shutil.copytree(PARITY / "llava_original", tmp_path / "llava")
    config = json.loads((tmp_path / "llava/config.json").read_text())
    write_json(
        tmp_path / "llava/config.json",
        {name: value for name, value in config.items() if name != "num_hidden_layers"},
    )
    write_tokenizer_model(tmp_path / "llava/tokenizer.model", 320)
    findings, size, _ = look_at(
        UsedModel("policy", str(tmp_path / "llava"), "the catalog's base_policy", TransformersParams())
    )
    assert ([finding.what for finding in findings], size) == (
        ["policy: of unknown size, all files there, its processor loads"],
        None,
    )


def change(name: str, **columns: Any) -> Callable[[Path], None]:
    """Sets or, with None, drops columns of a table."""

    def apply(folder: Path) -> None:
        frame = pd.read_parquet(folder / f"{name}.parquet")
        kept = frame.drop(columns=[column for column, value in columns.items() if value is None])
        kept.assign(**{column: value for column, value in columns.items() if value is not None}).to_parquet(
            folder / f"{name}.parquet"
        )

    return apply


@pytest.mark.parametrize(
    ("damage", "what", "remedy"),
    [
        (
            change("prompt_pool", question=None),
            "prompt_pool: it can't be used",
            "needs the column `question`",
        ),
        (
            change("prompt_pool", prompt_id="1"),
            "prompt_pool: it can't be used",
            "the key prompt_id=1 comes twice",
        ),
        (
            change("prompt_pool", question=[*["What?"] * 7, " "]),
            "prompt_pool: it can't be used",
            "row 7 has an empty text",
        ),
        (
            lambda folder: (folder / "prompt_pool.parquet").write_text("?"),
            "prompt_pool: it can't be used",
            "not a parquet file",
        ),
        (
            change("prompt_pool", image=[{"bytes": b"?", "path": "a.png"}] * 8),
            "prompt_pool: it can't be used",
            "8 of the first 8 images don't open",
        ),
        (
            change("test_prompts", image=[{"bytes": None, "path": "gone.png"}] * 4),
            "test_prompts: it can't be used",
            "gone.png",
        ),
        (
            change("selection_prompts", image_id=[77, 78, 79]),
            "selection_prompts: 3 images without annotations, such as image_id 77",
            "annotation files",
        ),
        (
            change("test_probes", image_id=99),
            "test_probes: 1 images that test_prompts doesn't have, such as image_id 99",
            "Leave out",
        ),
        (
            change("test_probes", answer="Yes"),
            "test_probes: answers other than yes and no, such as 'Yes'",
            "small letters",
        ),
        (
            lambda folder: (folder / "annotations/captions_test.json").write_text("{}"),
            "test_instances, test_captions: not COCO",
            "no 'images'",
        ),
        (
            lambda folder: (folder / "annotations/captions_test.json").write_text("{"),
            "test_captions: it can't be used",
            "is not JSON",
        ),
    ],
)
def test_tables_that_would_stop_the_run(
    project: Path, damage: Callable[[Path], None], what: str, remedy: str
) -> None:
    damage(project / PROMPTS)
    finding = only(check(project))
    assert finding.what.startswith(what)
    assert remedy in finding.remedy


def test_a_source_of_pairs_is_counted_or_missed_with_its_command(tmp_path: Path) -> None:
    source = PairSourceDataset(str(tmp_path), hub="openbmb/RLAIF-V-Dataset")
    inputs = Inputs()
    _check_entry("published_pairs", source, inputs, None)
    write_published(tmp_path / "a.parquet", [published(0), published(1)])
    _check_entry("published_pairs", source, inputs, None)
    missing, there = inputs.findings
    assert not missing.ok and missing.remedy.startswith(
        "hf download openbmb/RLAIF-V-Dataset --repo-type dataset"
    )
    assert there.ok and "2 pairs" in there.what


def test_too_few_prompts_for_all_iterations(project: Path) -> None:
    finding = only(check(project, loop={"iterations": 3}))
    assert finding.what == "prompt_pool: 8 prompts, of which the run needs 12"
    assert "lower data_generation.prompts or loop.iterations" in finding.remedy


class _Models(BaseHTTPRequestHandler):
    """A server that lists one model for one key."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer secret"
        body = json.dumps(
            {"object": "list", "data": [{"id": "omnilmm", "object": "model"}]}
            if known
            else {"error": {"message": "no"}}
        ).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Models) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()
        thread.join()


def test_a_served_labeler_needs_its_key_and_its_model(
    project: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    labeler = {"backend": "openai", "url": server, "model": "omnilmm", "api_key_variable": "MY_KEY"}
    finding = only(check(project, models={"labeler": labeler}))
    assert finding.where == server
    assert "MY_KEY holds none" in finding.remedy
    monkeypatch.setenv("MY_KEY", "secret")
    findings = check(project, models={"labeler": labeler})
    assert missing(findings) == []
    assert not any(
        finding.what.startswith("labeler: 0.5") for finding in findings
    )  # the catalog's is not asked
    assert (
        "no such model"
        in only(
            machine.check_server("labeler", OpenAIParams.model_validate({**labeler, "model": "other"}))
        ).remedy
    )


def test_a_server_that_is_not_there() -> None:
    params = OpenAIParams(url="http://127.0.0.1:9/v1", model="m", timeout=1)
    assert "no answer" in only(machine.check_server("splitter", params)).remedy


def test_a_disk_that_is_too_small(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    finding = only(check(project))
    assert finding.what.startswith("disk: the run writes about")
    assert "checkpoint_every" in finding.remedy


def test_a_gpu_that_is_too_small_or_not_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = {"compute": {"device": "cuda"}}
    monkeypatch.setattr(machine, "gpus", lambda: [])
    finding = only(check(project, **cuda))
    assert finding.what == "GPU: torch sees none here, and compute.device is cuda"
    monkeypatch.setattr(machine, "gpus", lambda: [GPU("small", 1_000_000_000, 8_000_000_000)])
    told = missing(check(project, **cuda))
    assert [line.split()[0] for line in told] == ["sampling", "dividing", "labeling", "training"]
    assert all(line.endswith("of GPU memory, 1.0 GB are free") for line in told)
    monkeypatch.setattr(machine, "gpus", lambda: [GPU("large", 80_000_000_000, 80_000_000_000)])
    assert missing(check(project, **cuda)) == []


def test_memory_is_of_one_gpu_unless_the_model_is_spread() -> None:
    two = [GPU("a", 40, 80), GPU("b", 50, 80)]
    assert not machine.check_memory("labeling", 60, two, spread=False).ok
    assert machine.check_memory("labeling", 60, two, spread=True).ok


def test_qwen_needs_torchvision(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known from the recipe, before the model is fetched."""
    find = machine.importlib.util.find_spec
    monkeypatch.setattr(
        machine.importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name)
    )
    findings = check(project, env="qwen")
    assert (
        "the package torchvision is not installed; the catalog's base_policy and labeler needs it"
        in missing(findings)
    )


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (
            {"training": {"deepspeed": "conf/deepspeed/zero9.json"}},
            "training.deepspeed=conf/deepspeed/zero9.json can't be used. Cannot read",
        ),
        ({"compute": {"dtype": "float16", "device": "cpu"}}, "float16 can't be trained on a CPU"),
        (
            {
                "feedback": {"scoring": "answer", "splitter": "miniature"},
                "models": {"labeler": {"backend": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"}},
            },
            "only a labeler in this process",
        ),
        ({"models": {}}, "models.splitter names no model"),
        ({"feedback": {"divide_prompt": "gone.txt"}}, "the splitter's prompt can't be used"),
    ],
)
def test_parameters_that_do_not_go_together(raw: dict[str, Any], what: str) -> None:
    good = {"models": {"splitter": {"path": "llama"}}}
    assert findings_of(RULES, loop_of(good)) == [TENSORBOARD]
    assert only(findings_of(RULES, loop_of(good | raw))).what.startswith(what)


def loop_of(raw: dict[str, Any]) -> RunSetup:
    """The stages of an iteration with these parameters, without a catalog."""
    parameters = Parameters.model_validate(raw)
    pipeline = training.create_pipeline(parameters) + feedback.create_pipeline(parameters)
    return RunSetup(parameters, pipeline, DataCatalog())


def test_what_only_another_recipe_s_runs_have_made_is_said(project: Path) -> None:
    """`check` chooses versions as a run would, which would not train on another recipe's pairs."""
    pairs = project / "data/05_model_input/iteration_1/preference_pairs.parquet/mini/preference_pairs.parquet"
    pairs.parent.mkdir(parents=True)
    pairs.write_bytes(b"never read")
    made = Manifest(
        run_id="mini",
        number=1,
        started=now(),
        pid=1,
        host="h",
        command="kedro run",
        pipelines=["feedback"],
        parameters={},
        packages={},
        python="3.11",
        lineage=Lineage(recipe="base", seed=0),
    )
    made.save(project)
    said = next(f for f in check_run(project, "llava15_7b", {}, ["training"]) if "preference_pairs" in f.what)
    assert said.what == "iteration_1.preference_pairs: it is there only from runs of another lineage"
    assert "run `mini` (its recipe is base)" in said.where
    assert "--load-versions iteration_1.preference_pairs:mini" in said.remedy
    assert "kedro run --env llava15_7b --pipelines feedback" in said.remedy
