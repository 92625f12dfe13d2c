"""Host memory doesn't grow with the number of pairs: the published dataset's 83,132 rows, synthetic,
gathered and read as training reads them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "perf/pair_memory.py"
# Of index: keys, prompts, row numbers. A row's picture and texts have 5,000 here, 150,000 in the published
# data
BYTES_A_ROW = 1500
NOISE = 40  # MiB, of allocators

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def measured(rows: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, str(SCRIPT), "--rows", str(rows), "--folder", str(folder), "--picture-kb", "4"]
    subprocess.run([*command, "--write-only"], check=True, capture_output=True)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])  # before it, DeepSpeed says which accelerator it takes


def test_memory_with_all_published_rows(tmp_path: Path) -> None:
    few, many = measured(2000, tmp_path), measured(83_132, tmp_path)
    allowed = NOISE + (83_132 - 2000) * BYTES_A_ROW / 2**20
    assert many["gathering_mib"] - few["gathering_mib"] < allowed
    assert many["reading_mib"] - few["reading_mib"] < allowed
