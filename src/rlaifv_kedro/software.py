"""Which code and which packages are at work here."""

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "kedro",
    "kedro-datasets",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "inflect",
    "contourpy",
    "matplotlib",
)


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result; none is imported."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_state(project: Path) -> tuple[str | None, bool | None]:
    """The commit and whether tracked files differ from it; (None, None) outside a git repository."""
    try:
        commit = _git(project, "rev-parse", "HEAD")
        return commit, bool(_git(project, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(project: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=project, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
