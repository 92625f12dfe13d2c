"""The kinds of trials, by the names that they have in the report."""

import random
from collections.abc import Callable

from damaging import (
    damaged_then_read_by_a_stage,
    damaged_then_replayed,
    damaged_then_resumed,
    killed_then_damaged,
)
from ground import Ground
from lacking import disk_fails, disk_is_full, judge_storms
from settling import Outcome, Trial
from stopping import (
    killed_at_moments,
    killed_at_operations,
    moved_in_time,
    started_twice,
    stopped_by_signals,
)
from workers import loader_killed, trainer_killed

Kind = Callable[[Ground, Trial, random.Random], Outcome]
KINDS: dict[str, Kind] = {
    "kill-moment": killed_at_moments,
    "damage-resume": damaged_then_resumed,
    "kill-operation": killed_at_operations,
    "damage-stage": damaged_then_read_by_a_stage,
    "kill-damage": killed_then_damaged,
    "damage-replay": damaged_then_replayed,
    "signal": stopped_by_signals,
    "twice": started_twice,
    "clock": moved_in_time,
    "disk-failing": disk_fails,
    "disk-full": disk_is_full,
    "judge-storm": judge_storms,
    "loader-killed": loader_killed,
    "trainer-killed": trainer_killed,
}
