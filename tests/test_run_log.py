"""A run's own log file."""

import logging
import sys

from rlaifv_kedro.redaction import keep_out
from rlaifv_kedro.run_log import close_log, open_log, record_error


def test_the_file_has_all_of_it_and_the_terminal_what_people_read(tmp_path, capsys):
    root, kedro = logging.getLogger(), logging.getLogger("kedro.io.data_catalog")
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)
    keep_out({"api_key": "sk-of-the-server"})
    try:
        open_log(tmp_path)
        kedro.info("Loading data")
        kedro.warning("a warning of Kedro's")
        root.info("with sk-of-the-server")
        try:
            raise ValueError("a bug with sk-of-the-server")
        except ValueError as error:
            record_error(error)
        close_log()
        root.info("after it")
        kedro.info("after it, too")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    file = (tmp_path / "run.log").read_text()
    assert "INFO kedro.io.data_catalog: Loading data\n" in file
    assert "INFO root: with ***\n" in file and "after it" not in file
    assert "ValueError: a bug with ***" in file and "test_run_log.py" in file  # the traceback
    assert capsys.readouterr().err.splitlines() == [
        "a warning of Kedro's",
        "with sk-of-the-server",
        "after it",
    ]


def test_another_start_goes_on_in_the_same_file(tmp_path):
    for number in range(2):
        open_log(tmp_path)
        logging.getLogger().warning("start %d", number)
        close_log()
    assert [line.partition(": ")[2] for line in (tmp_path / "run.log").read_text().splitlines()] == [
        "start 0",
        "start 1",
    ]
