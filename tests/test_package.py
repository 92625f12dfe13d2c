"""The wheel: what the code reads beside itself is in it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_every_file_that_is_no_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "src/rlaifv_kedro"
    packed = {file for pattern in settings["package-data"]["rlaifv_kedro"] for file in package.glob(pattern)}
    beside = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {file for file in beside - packed if file.suffix != ".py"} == set()
