"""The dry run: how many calls, tokens, GPU hours and bytes each stage of a run will take, worked out
before anything runs.
"""

from rlaifv_kedro.plan.assumptions import GPUS, Assumptions
from rlaifv_kedro.plan.run import Plan, plan_run

__all__ = ["GPUS", "Assumptions", "Plan", "plan_run"]
