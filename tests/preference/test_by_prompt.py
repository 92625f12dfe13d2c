"""The rows of each prompt, as a group-by finds them."""

import numpy as np
import pandas as pd

from rlaifv_kedro.preference.by_prompt import ByPrompt

ROWS = pd.DataFrame({"prompt_id": list("bababc"), "answer": range(6)}, index=range(10, 16))


def test_rows_are_those_of_a_group_by() -> None:
    found = ByPrompt(ROWS)
    for prompt, rows in ROWS.groupby("prompt_id"):
        pd.testing.assert_frame_equal(found[prompt], rows)
    assert "c" in found and "d" not in found and found["d"].empty


def test_rows_that_do_not_count_are_left_out() -> None:
    found = ByPrompt(ROWS, np.array([True, False, True, True, False, False]))
    assert found["b"]["answer"].tolist() == [0, 2] and found["a"]["answer"].tolist() == [3]
    assert "c" not in found
    assert "b" not in ByPrompt(ROWS[:0])
