"""Collects the wheels that perf/gpu_check.py needs beside the repository, for a machine without a network.

    python -m pip list --format freeze > there.txt                        # on the machine with the GPU
    python perf/gpu_wheels.py wheels --there there.txt --python 3.12      # here; says sizes and their sum
    python -m pip install --no-index --no-deps --target site wheels/*.whl # there; then PYTHONPATH=site

Wanted is what the check imports, with all that it requires, at the versions of this environment. Left out is
what the other machine has in a version that everything here accepts, and torch with its libraries: those must
be there.
"""

import argparse
import re
import subprocess
import sys
from importlib.metadata import distribution, version
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("transformers", "peft", "accelerate", "deepspeed", "kedro", "pydantic", "omegaconf")
ROOTS += ("pandas", "pyarrow", "pillow", "inflect", "tensorboard", "ijson", "rich", "packaging", "filelock")
ROOTS += ("sentencepiece", "protobuf", "jinja2", "fsspec", "tqdm", "click")
NEVER = ("torch", "triton", "setuptools", "pip")
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--there", type=Path, help="`pip list --format freeze` of the other machine")
    parser.add_argument("--python", default=".".join(map(str, sys.version_info[:2])), help="its Python")
    parser.add_argument("--list", action="store_true", help="only print what would be collected")
    parser.add_argument("--also", nargs="*", default=[], help="further packages, such as trl")
    given = parser.parse_args()
    there = installed(given.there.read_text() if given.there else "")
    wanted = missing(required([*ROOTS, *given.also], given.python), there)
    if given.list:
        print("\n".join(f"{name}=={version(name)}" for name in wanted))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        fetch(name, given.folder, given.python)
    sizes = {wheel.name: wheel.stat().st_size / MIB for wheel in given.folder.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size:6.1f} MiB  {name}")
    print(f"{sum(sizes.values()):6.1f} MiB  in all, {len(sizes)} wheels")


def installed(freeze: str) -> dict[str, str]:
    """Name -> version of the lines of ``pip list --format freeze``."""
    pairs = (line.split("==") for line in freeze.splitlines() if line.count("==") == 1)
    return {canonicalize_name(name): found.strip() for name, found in pairs}


def required(roots: list[str], python: str) -> dict[str, list[Requirement]]:
    """The roots and all that they require, each with what is asked of its version."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    asked: dict[str, list[Requirement]] = {canonicalize_name(name): [] for name in roots}
    left = list(asked)
    while left:
        for line in distribution(left.pop()).requires or []:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
            if not applies or name in NEVER:
                continue
            if name not in asked:
                asked[name] = []
                left.append(name)
            asked[name].append(requirement)
    return asked


def missing(asked: dict[str, list[Requirement]], there: dict[str, str]) -> list[str]:
    """What the other machine lacks, or has in a version that something here refuses."""
    own = project_requirements()
    return sorted(
        name
        for name, requirements in asked.items()
        if name not in there
        or any(
            not r.specifier.contains(there[name], prereleases=True)
            for r in [*requirements, *own.get(name, [])]
        )
    )


def project_requirements() -> dict[str, list[Requirement]]:
    """What this project asks of the versions of its dependencies."""
    lines = (Requirement(line) for line in distribution("rlaifv_kedro").requires or [])
    found: dict[str, list[Requirement]] = {}
    for requirement in lines:
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def fetch(name: str, folder: Path, python: str) -> None:
    """Download the wheel of this environment's version; build it where only sources are published."""
    wanted = f"{name}=={version(name)}"
    platforms = [f"--platform={p}" for p in PLATFORMS]
    binary = ["download", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    ways = ([*binary, *platforms, f"--dest={folder}"], ["wheel", f"--wheel-dir={folder}"])
    for way in ways:
        command = [sys.executable, "-m", "pip", *way, "--quiet", "--no-deps", wanted]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            break
    else:
        why = [line for line in found.stderr.splitlines() if line.startswith("ERROR")]
        sys.exit(f"{wanted}: no wheel could be had: {' '.join(why)}")
    built = [w for w in folder.glob("*.whl") if re.search(r"-cp\d+-", w.name) and "abi3" not in w.name]
    wrong = [w.name for w in built if f"-cp{python.replace('.', '')}-" not in w.name]
    if wrong:
        sys.exit(f"{', '.join(wrong)} is for another Python than {python}. Run this under Python {python}.")


if __name__ == "__main__":
    main()
