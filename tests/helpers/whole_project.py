"""A copy of the project in which whole runs are made: the real configuration, the shipped checkpoints,
environment ``test``.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = "data/06_models/miniature/seed_0"


@dataclass(frozen=True)
class Project:
    """A project folder, and commands in it as a person gives them."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def kedro(self, *arguments: str, expect: int = 0, env: str = "test") -> str:
        """Run ``kedro run --env test ...``; returns what the terminal shows."""
        return self._run(self.command("kedro", "run", "--env", env, *arguments), expect)

    def rlaifv(self, *arguments: str, expect: int = 0) -> str:
        """Run ``python -m rlaifv_kedro ...``."""
        return self._run(self.command("rlaifv_kedro", *arguments), expect)

    def files(self, run_id: str) -> dict[str, bytes]:
        """Every file that a run wrote, by its path without the run id; what holds times is left out:
        manifests, and TensorBoard's files.
        """
        found = {}
        for path in sorted((self.path / "data").rglob("*")):
            relative = path.relative_to(self.path)
            timed = relative.parts[1] == "runs" or "training_logs" in relative.parts
            if path.is_file() and run_id in relative.parts and not timed:
                found["/".join(p for p in relative.parts if p != run_id)] = path.read_bytes()
        return found

    def _run(self, command: list[str], expect: int) -> str:
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=900)
        output = done.stdout + done.stderr
        assert done.returncode == expect, f"{' '.join(command)} ended with {done.returncode}:\n{output}"
        assert "Traceback" not in output, output
        return output


def make_project(path: Path) -> Project:
    """Copy what a clone has: configuration, source and shipped checkpoints."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "conf", path / "conf")
    shutil.copy(ROOT / "pyproject.toml", path)
    shutil.copy(ROOT / ".telemetry", path)
    shutil.copytree(ROOT / "src", path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for shipped in (ROOT / SHIPPED).glob("*/shipped"):
        shutil.copytree(shipped, path / shipped.relative_to(ROOT))
    return Project(path)
