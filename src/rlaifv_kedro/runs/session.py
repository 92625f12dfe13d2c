"""The session: a run has an id, the version of all it writes, and users' mistakes end in one message."""

import logging
import re
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.session import KedroServiceSession
from kedro.framework.startup import bootstrap_project
from kedro.io.core import generate_timestamp

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.processes import this_process
from rlaifv_kedro.run_log import close_log
from rlaifv_kedro.runs import alive
from rlaifv_kedro.runs.asked import refuse_unknown_pipelines
from rlaifv_kedro.runs.kedro_private import project_path, without_resume_hint
from rlaifv_kedro.runs.manifest import has_begun, load, now
from rlaifv_kedro.runs.messages import refusing
from rlaifv_kedro.runs.recording import MadeOtherwise
from rlaifv_kedro.runs.status import take_away
from rlaifv_kedro.runs.stopping import handlers_restored, ignore_signals, stopped_by_signals

logger = logging.getLogger(__name__)

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class RunSession(KedroServiceSession):
    """A Kedro session whose runs have ids: the parameter ``run_id`` where given, else a new timestamp.

    A run whose id has a manifest is resumed: nodes whose outputs all exist in this run's version are skipped,
    and so are nodes that only those need.
    """

    def run(
        self,
        run_id: str | None = None,
        *args: Any,
        runtime_params: dict[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """As ``KedroServiceSession.run``; its ``run_id`` and the parameter of that name are one.

        Raises:
            UserError: For every mistake that the user can mend.
        """
        from kedro.runner import ParallelRunner, SequentialRunner

        project, params = project_path(self), dict(runtime_params or {})
        if run_id is not None:
            params["run_id"] = run_id
        for name in RUN_NAMES:
            if params.get(name) is not None:
                params[name] = checked_run_id(name, params[name])
        if isinstance(options.get("runner"), ParallelRunner):
            raise UserError(
                "ParallelRunner cannot be used: nodes in other processes cannot write the run's manifest. "
                "Leave out --runner, or use ThreadRunner."
            )
        run_id = params.get("run_id") or generate_timestamp()
        refuse_unknown_pipelines(args[0] if args else options.get("pipeline_names") or [])
        options["runner"] = without_resume_hint(options.get("runner") or SequentialRunner())
        with stopped_by_signals(), refusing(), alive.owning(project, run_id):
            begun = has_begun(project, run_id)
            options["only_missing_outputs"] = options.get("only_missing_outputs", False) or begun
            try:
                while True:
                    try:
                        return super().run(run_id, *args, runtime_params=params, **options)
                    except MadeOtherwise:
                        options["only_missing_outputs"] = True
            except KeyboardInterrupt as stop:
                with handlers_restored():
                    ignore_signals()
                    _record_stop(project, run_id, stop)
                raise
            finally:
                take_away()
                close_log()

    def close(self) -> None:
        """Ends the session; Kedro's own says so in a line that tells a person nothing."""


def _record_stop(project: Path, run_id: str, stop: KeyboardInterrupt) -> None:
    """Writes down that a signal has stopped the run, if it had begun in this process, and says how to go on.

    Raises:
        UserError: It was stopped because another process has taken it over.
    """
    alive.check(project, run_id)
    run, process = load(project, run_id), this_process()
    if run is None or run.status != "running" or (run.pid, run.host) != (process.pid, process.host):
        return
    signal = str(stop) or "SIGINT"
    stopped = {"status": "stopped", "ended": now(), "error": f"stopped by {signal}"}
    run.model_copy(update=stopped).save(project)
    logger.warning("Run %s was stopped (%s). To go on: %s", run_id, signal, run.command)


def load_context(project: Path, env: str | None, params: dict[str, Any]) -> KedroContext:
    """The project's configuration as ``kedro run --env ENV --params ...`` would see it; nothing is run."""
    bootstrap_project(project)
    with RunSession.create(project_path=project, env=env) as session:
        return session.load_context(params)


def checked_run_id(name: str, value: Any) -> str:
    """The id, which is text.

    Raises:
        UserError: It could not be a folder's name, or a YAML file holds it as something other than text:
            0123 and 83 reach us as the same number.
    """
    if not isinstance(value, str):
        raise UserError(f"{name} cannot be a run's id: {value!r} is not text. Put it in quotes.")
    if not RUN_ID.fullmatch(value):
        raise UserError(
            f"{name}={value} cannot be a run's id: use letters, digits, `.`, `_` and `-` (at most 100, the "
            "first not a `.`)."
        )
    return value
