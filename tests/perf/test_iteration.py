"""perf/iteration.py: a whole small iteration by both ways, whose results it compares before it says a ratio."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from real_vllm import vllm_serving

PERF = Path(__file__).parents[2] / "perf"


@pytest.mark.slow
def test_an_iteration_of_few_prompts() -> None:
    _ends_with_a_ratio()


@pytest.mark.vllm
def test_an_iteration_of_few_prompts_on_servers() -> None:
    _ends_with_a_ratio("--vllm", vllm_serving().python)


def _ends_with_a_ratio(*options: str) -> None:
    """As it does only if both ways agree in every stage."""
    command = [sys.executable, str(PERF / "iteration.py"), "--prompts", "6", "--json", *options]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.splitlines()[-1])
    stages = {"sampling", "verdicts", "pairs", "reference", "training", "selection"}
    assert found["ours"].keys() == found["peer"].keys() == stages
    assert all(seconds >= 0 for way in ("ours", "peer") for seconds in found[way].values())
    assert found["differences"]["pairs"] == 0


def test_another_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One verdict, one pair, one loss that differ."""
    monkeypatch.syspath_prepend(PERF)
    from iteration import Made, differences

    def made(p_yes: float, chosen: str, loss: float) -> Made:
        verdicts = pd.DataFrame({"p_yes": [0.5, p_yes], "p_no": [0.5, 1 - p_yes]})
        pairs = pd.DataFrame({"question": ["q"], "chosen": [chosen], "rejected": ["r"]})
        numbers = pd.DataFrame({"chosen": [-1.0], "rejected": [-2.0]})
        log, metrics = pd.DataFrame({"loss": [0.7, loss], "grad_norm": 1.0}), pd.DataFrame({"value": [0.1]})
        return Made(
            verdicts=(pd.DataFrame(), verdicts), pairs=pairs, reference=numbers, log=log, metrics=metrics
        )

    same = differences(made(0.9, "c", 0.6), made(0.9, "c", 0.6))
    assert set(same.values()) == {0.0}
    other = differences(made(0.9, "c", 0.6), made(0.7, "d", 0.5))
    assert other["verdicts"] == pytest.approx(0.2)
    assert other["pairs"] == 1
    assert other["training"] == pytest.approx(0.1)
    assert other["reference"] == other["selection"] == 0
