"""The session: a run has an id, which is the version of everything it writes, and users' mistakes end in
one message.
"""

import json
import logging
import re
import shlex
from typing import Any

import click
from kedro.config import BadConfigException, MissingConfigException
from kedro.framework.session import KedroSession
from kedro.io.core import DatasetError
from kedro.pipeline.pipeline import PipelineError
from kedro.validation.exceptions import ParameterValidationError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.runs.manifest import RUNTIME_ONLY, load, path_of

logger = logging.getLogger(__name__)

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_PLAIN = re.compile(r"[\w./-]+")  # an item of a list that needs no quotes
SELECTIONS = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs", "namespaces")
"""Options of ``kedro run`` that choose nodes."""


KEDRO_CHECKS = (
    "kedro.framework.session.session",
    "kedro.framework.context.context",
    "kedro.pipeline.pipeline",
    "kedro.runner.runner",
    "kedro.config.omegaconf_config",
)
"""Modules that check what the user asked for, and complain with a plain ValueError."""

WRONG_KEY = "must only contain arguments valid for the constructor"
"""How Kedro reports a key in the catalog that the entry's dataset does not have."""


class RunSession(KedroSession):
    """A Kedro session whose id is the run id: the runtime parameter ``run_id`` where given, else a new
    timestamp.

    A run whose id has a manifest is resumed: nodes whose outputs all exist in this run's version are skipped,
    and so are nodes that only those need.
    """

    @classmethod
    def create(cls, *args: Any, runtime_params: dict[str, Any] | None = None, **kwargs: Any) -> "RunSession":
        """As ``KedroSession.create``.

        Raises:
            UserError: ``run_id`` or ``replay`` is not a usable id.
        """
        params = dict(runtime_params or {})
        for name in RUNTIME_ONLY:
            if name in params:
                params[name] = checked_run_id(name, params[name])
        session = super().create(*args, runtime_params=params, **kwargs)
        if "run_id" in params:
            session.session_id = params["run_id"]
            session._store["session_id"] = params["run_id"]
        return session

    def run(
        self, pipeline_name: str | None = None, pipeline_names: list[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        """As ``KedroSession.run``.

        Raises:
            UserError: For every mistake that the user can mend.
        """
        from kedro.runner import SequentialRunner

        started_before = path_of(self._project_path, self.session_id).exists()
        options["only_missing_outputs"] = options.get("only_missing_outputs", False) or started_before
        options["runner"] = options.get("runner") or SequentialRunner()
        options["runner"]._suggest_resume_scenario = lambda *_: (
            None
        )  # the run id resumes better, see on_pipeline_error in hooks.py
        try:
            return super().run(pipeline_name, pipeline_names, **options)
        except KeyboardInterrupt:
            begun = load(self._project_path, self.session_id)
            if begun is not None:
                logger.warning("Run %s was interrupted. To go on: %s", begun.run_id, begun.command)
            raise
        except Exception as error:
            message = user_message(error)
            if message is None or isinstance(error, click.ClickException):
                raise
            logger.debug("The error as Python saw it:", exc_info=error)
            raise UserError(message) from None


def checked_run_id(name: str, value: Any) -> str:
    """The id as text.

    Raises:
        UserError: It could not be a folder's name, or YAML read it as something other than text: 0123 and 83
            reach us as the same number.
    """
    if not isinstance(value, str):
        raise UserError(
            f"{name} cannot be a run's id: YAML reads what was given as {value!r}, not as text. Use a "
            "letter in it, or quotes that the shell "
            f"leaves alone: --params \"{name}='...'\"."
        )
    if not RUN_ID.fullmatch(value):
        raise UserError(
            f"{name}={value} cannot be a run's id: use letters, digits, `.`, `_` and `-` (at most 100, the "
            "first not a `.`)."
        )
    return value


def resume_command(run_params: dict[str, Any], run_id: str | None) -> str:
    """The command that goes on with a run, or starts one like it.

    Args:
        run_params: What Kedro gives to ``before_pipeline_run``.
        run_id: The run; None for a new one.
    """
    parts = ["kedro", "run"]
    if run_params.get("env"):
        parts += ["--env", run_params["env"]]
    if run_params.get("pipeline_names"):
        parts += ["--pipelines", ",".join(sorted(run_params["pipeline_names"]))]
    for option in SELECTIONS:
        if run_params.get(option):
            parts += [
                f"--{'nodes' if option == 'node_names' else option.replace('_', '-')}",
                ",".join(run_params[option]),
            ]
    params = {"run_id": run_id} if run_id else {}
    params |= {
        name: value
        for name, value in flatten(run_params.get("runtime_params") or {}).items()
        if name != "run_id"
    }
    if params:
        parts += ["--params", ",".join(f"{name}={_as_given(value)}" for name, value in params.items())]
    return shlex.join(parts)


def _as_given(value: Any) -> str:
    """The value as ``--params`` must hold it, to be read back the same: split at commas (see cli.py), then
    YAML reads the rest.
    """
    if isinstance(value, list):
        items = (_as_given(item) if _PLAIN.fullmatch(str(item)) else _quoted(item) for item in value)
        return f"[{','.join(items)}]"
    plain = str(value)
    return plain if _read_back(plain) == [value] else _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace(",", "\\u002c")


def _read_back(text: str) -> list[Any]:
    """The value that Kedro and YAML make of it; none where they cannot read it."""
    if "," in text or text != text.strip():
        return []
    try:
        return [OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]]
    except (OmegaConfBaseException, YAMLError):
        return []


def user_message(error: BaseException) -> str | None:
    """What to tell the user, or None for a bug, which deserves its traceback."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, ValidationError):
        return validation_message(error)
    if isinstance(error, DatasetError):
        return str(error) if error.__cause__ is None else _dataset_message(error)
    mendable = (
        ParameterValidationError,
        BadConfigException,
        MissingConfigException,
        OmegaConfBaseException,
        YAMLError,
        PipelineError,
    )
    if isinstance(error, mendable) or (type(error) is ValueError and _raised_by_kedro(error)):
        return str(error)
    return None


def _dataset_message(error: DatasetError) -> str | None:
    """Kedro wraps whatever a dataset raises; what lies at the bottom decides whether it is the user's or a
    bug.
    """
    root: BaseException = error
    while root.__cause__ is not None and not isinstance(root, UserError):
        root = root.__cause__
    if isinstance(root, DatasetError | OSError | ImportError) or WRONG_KEY in str(error):
        return str(error).strip()
    return None


def validation_message(error: ValidationError) -> str:
    """Pydantic's complaints, one a line, with dotted parameter names and the value that was given."""
    lines = [
        f"  {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
        for problem in error.errors(include_url=False, include_context=False)
    ]
    return (
        f"Wrong parameters for {error.title}:\n"
        + "\n".join(lines)
        + "\nCorrect them in conf/ or with --params."
    )


def _raised_by_kedro(error: ValueError) -> bool:
    """Kedro reports unknown pipelines, nodes, tags and inputs as ValueError, raised in these modules
    themselves, never below.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_globals.get("__name__") if trace else None) in KEDRO_CHECKS
