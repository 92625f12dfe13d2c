"""Two runs side by side, by numbers worked by hand."""

import pytest

from measured_runs import measure
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.reporting.comparison import compare_runs

CAT, DOG = "There is a cat.", "There is a dog."


def test_rates_intervals_and_flips(tmp_path):
    """A names a dog that is not there in 3 of 4 answers, B in 1 of 4; t1 and t2 are better, none is worse."""
    a = measure(tmp_path, "a", {"t0": CAT, "t1": DOG, "t2": DOG, "t3": DOG})
    b = measure(tmp_path, "b", {"t0": CAT, "t1": CAT, "t2": CAT, "t3": DOG}, parameters={"a": {"b": 2}})
    found = compare_runs(tmp_path, a, b)
    assert found.parameters == [("a.b", 1, 2)]
    rates = {rate.metric: rate for rate in found.rates}
    rate = rates["response_hallucination"]
    assert (rate.a["value"], rate.b["value"], rate.difference) == (0.75, 0.25, -0.5)
    # resamples of (-1, -1, 0, 0): means of four draws; P(0) = P(-1) = 1/16 > 2.5 %
    assert (rate.low, rate.high) == (-1.0, 0.0)
    assert [(f.item_id, f.better, f.note_a, f.note_b, f.answer_b) for f in found.flips] == [
        ("t1", True, "not there: dog", "", CAT),
        ("t2", True, "not there: dog", "", CAT),
    ]
    assert found.notes == []
    back = compare_runs(tmp_path, b, a)
    assert [flip.better for flip in back.flips] == [False, False]


def test_a_loops_last_policies_are_compared(tmp_path):
    """Of A the second iteration's and of B the first one's: the base policy's is older than either."""
    for entry in ("base", "iteration_1", "iteration_2"):
        a = measure(tmp_path, "a", {"t0": CAT if entry == "iteration_2" else DOG}, entry)
    measure(tmp_path, "b", {"t0": CAT}, "iteration_1")
    b = measure(tmp_path, "b", {"t0": DOG}, "base")
    found = compare_runs(tmp_path, a, b)
    assert {(rate.policy_a, rate.policy_b) for rate in found.rates} == {("iteration_2", "iteration_1")}
    assert found.flips == []


def test_an_item_may_flip_for_several_policies(tmp_path):
    policies = ("base", "iteration_1")
    runs = [
        measure(tmp_path, name, {"t0": said}, "benchmark.chair", policies=policies)
        for name, said in (("a", DOG), ("b", CAT))
    ]
    found = compare_runs(tmp_path, *runs)
    assert [(flip.what, flip.policy_a, flip.policy_b, flip.item_id) for flip in found.flips] == [
        ("benchmark.chair", policy, policy, "t0") for policy in policies
    ]
    assert {(rate.what, rate.policy_b) for rate in found.rates} == {("benchmark.chair", p) for p in policies}


@pytest.mark.parametrize(
    ("answers", "items"), [({"t0": CAT}, "others"), ({"t1": CAT}, "")], ids=["by hash", "by name"]
)
def test_other_items_have_no_interval(tmp_path, answers, items):
    a = measure(tmp_path, "a", {"t0": DOG}, items="i" if items else "")
    found = compare_runs(tmp_path, a, measure(tmp_path, "b", answers, items=items))
    assert {rate.difference for rate in found.rates} == {None} and found.flips == []
    assert "on different items" in found.notes[0]


def test_what_only_one_has_measured_is_said(tmp_path):
    a, b = measure(tmp_path, "a", {"t0": CAT}), measure(tmp_path, "b", {"t0": CAT})
    b.written.clear()
    assert compare_runs(tmp_path, a, b).notes == ["Only run a has measured policies on the test split."]
    a.written.clear()
    assert compare_runs(tmp_path, a, b).notes == ["Neither run has measured a policy."]


def test_a_table_that_was_altered_is_named(tmp_path):
    a, b = measure(tmp_path, "a", {"t0": CAT}), measure(tmp_path, "b", {"t0": DOG})
    path = tmp_path / b.written["iteration_1.answers"].path
    path.write_bytes((tmp_path / a.written["iteration_1.answers"].path).read_bytes())
    with pytest.raises(UserError, match="answers.parquet is damaged.*Remove and make it with: rm -r"):
        compare_runs(tmp_path, a, b)
