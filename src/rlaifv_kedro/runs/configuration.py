"""The files of ``conf/``: what is wrong with one is said with its name and line, whatever it is."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from rlaifv_kedro.doors import reason_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line, flatten
from rlaifv_kedro.params import complete_parameters
from rlaifv_kedro.redaction import keep_out, secret_in
from rlaifv_kedro.runs.kedro_private import config_files

LAYERS = {
    "base_env": "base",
    "default_run_env": "local",
    # Without it an environment that sets one parameter of a stage would replace the whole stage.
    "merge_strategy": {"parameters": "soft"},
}
"""How environments lie over each other."""
KINDS = ("catalog", "credentials", "globals", "parameters")
"""How names of files of configuration begin."""
ENDINGS = (".yml", ".yaml", ".json")
WITHOUT_FILES = {"local"}
"""The environment of a run that names none; it holds what is of this machine only, which may be nothing."""
PATTERNS = "[]{}"
"""What has a meaning of its own where Kedro looks for files, or in a path of the catalog."""


class Configuration(OmegaConfigLoader):
    """Kedro's configuration, whose files are refused by name and line where they can't be used.

    Kedro itself names neither for most faults, passes on what its libraries raise, and keeps the value of
    ``conf/base`` where another environment says ``???``.
    """

    def __init__(self, conf_source: str | Path, env: str | None = None, *args: Any, **options: Any) -> None:
        """As of ``OmegaConfigLoader``.

        Raises:
            UserError: There is no such environment, or Kedro can't look for files in a folder of this name.
        """
        odd = sorted(set(str(conf_source)) & set(PATTERNS))
        if odd:
            raise UserError(
                f"{conf_source}: Kedro takes the {' '.join(odd)} in this path for a pattern. Rename the "
                "folder, or move the project elsewhere."
            )
        super().__init__(conf_source, env, *args, **options)
        known = environments(Path(conf_source))
        if env is not None and known and env not in known:
            raise UserError(
                f"--env {env}: there is no such environment. Those of {shown(conf_source)} are: "
                f"{', '.join(known)}."
            )

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Reads all files of one kind, such as ``parameters``.

        Raises:
            UserError: A file is no YAML of use, holds a password or key, or the files can't
                be put together.
            MissingConfigException: There is no such file; Kedro does without credentials then.
            KeyError: There is no such kind of files.
        """
        if key in self.data or key not in self.config_patterns:
            return super().__getitem__(key)
        try:
            contents = config_files(self, key)
        except OSError as error:
            name = shown(error.filename or self.conf_source)
            raise UserError(f"{name} can't be read: {reason_of(error)}. Put a file of YAML there.") from error
        read = {shown(path): read_file(shown(path), content) for path, content in contents.items()}
        _refuse_unsaid("--params", self.runtime_params or {})
        given = {**read, "--params": self.runtime_params or {}}
        for file, values in given.items():
            if key != "credentials":
                _refuse_secrets(file, _plain(values))
            elif file in read:
                keep_out(flatten(_plain(values)))
        try:
            return super().__getitem__(key)
        except (MissingConfigException, UserError):
            raise
        except Exception as error:
            raise UserError(_not_together(error, given)) from error


def recipe_parameters(project: Path, env: str | None) -> dict[str, Any]:
    """The parameters of a recipe as its files say now, with all defaults; see ``complete_parameters``.

    Raises:
        UserError: There is no such environment any more, or its files can't be used.
    """
    loader = Configuration(str(project / "conf"), env=env, **LAYERS)
    return complete_parameters(loader["parameters"])


def environments(conf_source: Path) -> list[str]:
    """The environments: folders with a file of configuration, and those that Kedro has without one."""
    files = {path for kind in KINDS for path in conf_source.glob(f"*/{kind}*") if path.suffix in ENDINGS}
    return sorted({path.parent.name for path in files} | WITHOUT_FILES) if files else []


def read_file(file: str, content: bytes) -> DictConfig:
    """Reads a file of the configuration.

    Raises:
        UserError: Names file and line, and what is wrong there.
    """
    try:
        found = OmegaConf.load(io.StringIO(content.decode()))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: this is not UTF-8 text. Save the file as UTF-8.") from error
    except Exception as error:
        raise UserError(f"{file}{_line(error, content)}: {_problem(error)}") from error
    if not isinstance(found, DictConfig):
        raise UserError(f"{file} is a list. Write names with their values: `name: value`.")
    _refuse_unsaid(file, _plain(found))
    return found


def _refuse_unsaid(file: str, values: Mapping[str, Any]) -> None:
    """Refuses what OmegaConf would leave out without a word."""
    unsaid = [name for name, value in flatten(values).items() if value == "???"]
    if unsaid:
        raise UserError(f"{file}: {', '.join(unsaid)}: `???` is no value. Give one, or leave the name out.")


def _refuse_secrets(file: str, values: Mapping[str, Any]) -> None:
    """Refuses passwords and keys: parameters and entries stand in logs and manifests."""
    for name, value in flatten(values).items():
        secret = secret_in(str(value))
        if secret:
            raise UserError(
                f"{file}: {name} holds {secret}, which logs and manifests would show. Take it "
                "out. The key of a model's server belongs into the environment variable that "
                "api_key_variable names, what a data set needs into credentials.yml; a file behind a "
                "password is yours to fetch by hand."
            )


def _line(error: Exception, content: bytes) -> str:
    """Where an error of YAML is; empty where it doesn't tell."""
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if mark is not None:
        return f", line {mark.line + 1}"
    return "" if position is None else f", line {content.decode().count(chr(10), 0, position) + 1}"


def _problem(error: Exception) -> str:
    if not isinstance(error, YAMLError):
        return f"{first_line(error)}. Correct the file."
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or first_line(error)
    return (
        f"this is no YAML of use ({said}). Correct it: lines are indented with blanks, and text with special "
        "characters stands in quotes."
    )


def _not_together(error: Exception, read: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with files of which each can be read: which of them it is about, and which name.

    Args:
        read: What each says; the last counts where several say the same.
    """
    name = str(getattr(error, "full_key", None) or "")
    saying = [file for file, values in read.items() if name in flatten(_plain(values))]
    said = first_line(error)
    named = any(Path(file).name in said for file in read)  # such as the two files that say the same
    where = saying[-1] if name and saying else ", ".join(file for file in read if read[file] and not named)
    if "oc.env" in said:
        said = "environment variables are read in credentials.yml only. Write the value itself."
    return ": ".join(filter(None, (where, name, said)))


def _plain(values: Mapping[str, Any]) -> Any:
    return OmegaConf.to_container(values) if isinstance(values, DictConfig) else values
