"""What a look tells of the names of weights is what loading finds."""

import json
import shutil
from pathlib import Path

import pytest

from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import LoraParams, TrainingParams
from rlaifv_kedro.preflight.weight_names import weight_names
from rlaifv_kedro.training.learning import Learning

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.mark.parametrize("layout", ["llava_original", "omnilmm", "minicpm_llama3_v25", "tiny"])
def test_the_names_are_those_in_memory(layout: str, tiny: Path) -> None:
    """Of an original LLaVA whose tower lies elsewhere only its place is known: compared is what learns."""
    folder = tiny if layout == "tiny" else PARITY / layout
    module = load_model(folder, device="cpu").module
    own = [name for name, _ in module.named_parameters()]
    for params in (TrainingParams(), TrainingParams(lora=LoraParams())):
        assert Learning.of(*weight_names(folder), params) == Learning.of(
            own, module.config.model_type, params
        )


def test_what_is_not_known_is_not_judged(tmp_path: Path) -> None:
    """A single ``.bin`` tells no names; a folder without a config, and adapters without their base, neither."""
    shutil.copy(PARITY / "llava_original" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert weight_names(tmp_path) is None
    assert weight_names(tmp_path / "gone") is None
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    described = {"peft_type": "LORA", "base_model_name_or_path": "nobody/has-it"}
    (adapters / "adapter_config.json").write_text(json.dumps(described))
    assert weight_names(adapters) is None
