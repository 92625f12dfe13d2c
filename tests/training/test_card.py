"""The card beside a checkpoint: what stands in it, and that the same training writes the same bytes."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from rlaifv_kedro.preference.selection import BASE, START, choose
from rlaifv_kedro.training import card
from rlaifv_kedro.training.card import Provenance, measured_card, parent_name, provenance, write_cards
from selection_tables import FOUR, PARAMS, RATES, table

FINGERPRINT = {"model": "a" * 64, "data": "b" * 64, "template": "c" * 64, "dtype": "bfloat16"}
LOG = pd.DataFrame(
    {
        "step": [1, 2, 3, 4],
        "loss": [0.7, 0.6, 0.5, 0.3],
        "reward_margin": [0.0, 0.1, 0.2, None],
        "reward_accuracy": [0.5, 0.6, 0.8, 0.9],
        "log_ratio_chosen": 0.1,
        "log_ratio_rejected": -0.1,
    }
)
CHECKPOINTS = [
    {"path": "checkpoint-2", "step": 2, "epoch": 0.5},
    {"path": "checkpoint-4", "step": 4, "epoch": 1.0},
]
REFERENCES = {START: "start of the iteration", BASE: "base policy"}


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provenance:
    """Of a training in a project at ``tmp_path``, from a versioned policy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(card, "git_state", lambda folder: ("0123abc", True))
    policy = tmp_path / "data/06_models/iteration_1/trained_policy/my-run/trained_policy"
    policy.mkdir(parents=True)
    mix = {
        "preference_pairs": {"weight": 1.0},
        "published_pairs": {"weight": 0.5},
        "trl_pairs": {"weight": 0.0},
    }
    return provenance(
        policy,
        FINGERPRINT,
        1234,
        2,
        7,
        {"beta": 0.1, "lora": {"rank": 4}, "freeze": ["a", "b"], "mix": mix},
        processes=2,
    )


@pytest.fixture
def folder(origin: Provenance, tmp_path: Path) -> Path:
    for checkpoint in CHECKPOINTS:
        (tmp_path / checkpoint["path"]).mkdir()
    (tmp_path / "checkpoint-4" / "adapter_config.json").touch()
    (tmp_path / "checkpoint-4" / "README.md").write_text("peft's own")
    write_cards(tmp_path, CHECKPOINTS, LOG, origin)
    return tmp_path


def read(folder: Path, name: str) -> tuple[dict, list[str]]:
    """Front matter and lines."""
    text = (folder / name / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body.splitlines()


def test_a_card_says_where_the_checkpoint_comes_from(folder: Path) -> None:
    front, lines = read(folder, "checkpoint-2")
    assert front["datasets"] == ["openbmb/RLAIF-V-Dataset"]
    assert (
        front["license"] == "other" and front["library_name"] == "transformers" and "base_model" not in front
    )
    assert "# checkpoint-2: step 2, epoch 0.50" in lines
    for line in (
        f"| parent checkpoint | `data/06_models/iteration_1/trained_policy`, sha256 `{'a' * 64}` |",
        f"| preference pairs | 1,234, sha256 `{'b' * 64}` |",
        "| seed | 7 |",
        "| iteration | 2 |",
        "| processes | 2 |",
        "| code | git commit 0123abc, with changes |",
        "| `training.beta` | `0.1` |",
        "| `training.lora.rank` | `4` |",
        "| `training.freeze` | `['a', 'b']` |",
    ):
        assert line in lines, line
    assert any(
        line.startswith("| packages | ") and "torch 2" in line and "transformers 5" in line for line in lines
    )
    assert lines[-3] == "Not yet." and lines[-5] == "## Measured"
    assert lines[-1].startswith("<!-- sha256 of the above")  # by which damage is noticed


def test_training_metrics_are_those_of_the_step_and_the_mean_since_the_checkpoint_before(
    folder: Path,
) -> None:
    _, lines = read(folder, "checkpoint-4")
    assert "|  | at step 4 | mean of steps 3 to 4 |" in lines
    assert "| loss | 0.3 | 0.4 |" in lines and "| reward accuracy | 0.9 | 0.85 |" in lines
    assert "| reward margin | - | 0.2 |" in lines  # the last step's isn't known


def test_adapters_say_so_and_pefts_card_is_replaced(folder: Path) -> None:
    front, lines = read(folder, "checkpoint-4")
    assert front["library_name"] == "peft" and any(
        line.startswith("LoRA adapters for a multimodal LLM") for line in lines
    )


def test_cards_hold_no_paths_of_this_machine_and_no_run(folder: Path) -> None:
    text = (folder / "checkpoint-2" / "README.md").read_text()
    assert str(folder) not in text and "my-run" not in text


@pytest.mark.parametrize(
    ("path", "name", "base_model"),
    [
        (
            "cache/models--llava-hf--llava-1.5-7b-hf/snapshots/8c85e9",
            "llava-hf/llava-1.5-7b-hf@8c85e9",
            "llava-hf/llava-1.5-7b-hf",
        ),
        ("models/RLAIF-V-7B", "models/RLAIF-V-7B", None),
        ("data/base_policy/shipped/base_policy", "data/base_policy", None),
    ],
)
def test_the_parents_name(
    path: str, name: str, base_model: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parent_name(tmp_path / path) == name
    assert provenance(tmp_path / path, FINGERPRINT, 1, 1, 0, {}).base_model == base_model
    monkeypatch.chdir("/")
    assert parent_name(Path("/models/RLAIF-V-7B")) in ("models/RLAIF-V-7B", "RLAIF-V-7B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nbase_model: owner/name\n---\n# x", "owner/name"),
        ("---\nbase_model: [a, b]\n---\n", None),
        ("# none", None),
        ("---\n: : {\n---\n", None),
        ("---\na: " + "[" * 5000 + "\n---\n", None),
        ("---\ndate: 2020-99-99\nbase_model: owner/name\n---\n", None),
        ("---\nbase_model: !!python/object/apply:os.system ['exit 1']\n---\n", None),
        ('---\nbase_model: "<script>alert(1)</script>\\n# x"\n---\n', None),
        ("---\nbase_model: ../elsewhere\n---\n", None),
    ],
)
def test_the_base_model_is_inherited_from_the_parents_card(
    text: str, expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(text)
    assert provenance(tmp_path, FINGERPRINT, 1, 1, 0, {}).base_model == expected


def test_a_measured_card(folder: Path) -> None:
    text = (folder / "checkpoint-2" / "README.md").read_text()
    metrics = table(RATES)
    selection = choose(FOUR, metrics, PARAMS)
    measured = measured_card(text, "c2", metrics, selection, REFERENCES)
    assert measured.startswith(text.partition("Not yet.\n")[0])
    assert "On the selection split, 300 answers. by rule. Value ± one standard error" in measured
    assert "| response hallucination | 30.0 ± 2.0 | 50.0 ± 2.0 | 60.0 ± 2.0 |" in measured
    assert "Chosen of its training's checkpoints by response hallucination." in measured
    assert measured_card(measured, "c2", metrics, selection, REFERENCES) == measured  # again changes nothing
    assert "Chosen" not in measured_card(text, "c3", metrics, selection, REFERENCES)


def test_a_card_says_what_makes_its_figures_doubtful(folder: Path) -> None:
    text = (folder / "checkpoint-2" / "README.md").read_text()
    metrics = table(RATES, c3={"empty_share": 0.5})
    selection = choose(FOUR, metrics, PARAMS.model_copy(update={"select_on": "test"}))
    measured = measured_card(text, "c3", metrics, selection, REFERENCES)
    assert (
        "**Chosen on the test split: its figures there are optimistic.**" in measured
        and "**Collapsed**: 50% empty answers." in measured
    )
