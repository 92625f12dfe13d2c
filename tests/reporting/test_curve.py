"""The curve of the checkpoints, on hand-made tables."""

from rlaifv_kedro.preference.selection import BASE, START, choose
from rlaifv_kedro.reporting.curve import draw_curve
from selection_tables import FOUR, PARAMS, RATES, listed, table


def test_the_curve_shows_every_checkpoint_its_error_and_the_choice() -> None:
    metrics = table(RATES, c3={"empty_share": 0.9})
    [axis] = draw_curve(metrics, choose(FOUR, metrics, PARAMS)).axes
    points = {container.get_label(): container for container in axis.containers}
    assert points["checkpoint"].lines[0].get_xydata().tolist() == [[0.25, 0.45], [0.5, 0.3], [1.0, 0.35]]
    [bars] = points["checkpoint"].lines[2]
    assert [round(float(end - start), 9) for (_, start), (_, end) in bars.get_segments()] == [
        0.04
    ] * 3  # one standard error to each side
    assert points["collapsed"].lines[0].get_xydata().tolist() == [[0.75, 0.3]]
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["chosen"].get_xydata().tolist() == [[0.5, 0.3]]
    assert set(lines["start of the iteration"].get_ydata()) == {0.5} and set(
        lines["base policy"].get_ydata()
    ) == {0.6}
    assert axis.get_title(loc="left") == "response hallucination on the selection split"


def test_the_curve_where_the_start_stays_and_is_the_base() -> None:
    metrics = table({BASE: 0.2, START: 0.2, "c1": 0.4})
    [axis] = draw_curve(metrics, choose(listed("c1"), metrics, PARAMS)).axes
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["chosen"].get_xydata().tolist() == [[0.0, 0.2]] and "base policy" not in lines
