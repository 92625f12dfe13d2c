"""The check before a run: everything that it will need and that can be looked at in a minute, all that is
missing at once.
"""

from rlaifv_kedro.check.finding import Finding
from rlaifv_kedro.check.run import check_run

__all__ = ["Finding", "check_run"]
