import numpy as np
import pytest

from softargmax.bench import PEERS, by_k, chosen
from softargmax.bench.works import COPY, OURS, READ, TITLES, groups, quick_groups, short

WORKS = chosen()


def test_every_size_that_is_asked_for_is_there():
    wanted = {(10**6, 10), (10**5, 100), (50_000, 1000), (1024, 32_768), (512, 131_072), (64, 1000), (1, 1000)}
    for op, result in (("softmax", "out"), ("softmax", "fresh"), ("logsumexp", "numbers")):
        assert wanted <= {work.shape for work in WORKS if (work.op, work.result) == (op, result)}
    assert {(1000, 20_000), (64, 1000, 64), (64, 21, 128, 128)} <= {work.shape for work in WORKS if work.axis >= 0}
    ks = [work.shape[1] for work in by_k()]
    assert (ks[0], ks[-1]) == (2, 131_072)
    assert ks == sorted(set(ks))
    assert all(9.9e6 < np.prod(work.shape) <= 1e7 for work in by_k())


def test_goals_are_about_what_is_measured():
    known = {COPY, READ, *(peer.name for peer in PEERS)}
    goals = [(work, goal) for work in WORKS for goal in work.goals]
    assert {goal.against for _, goal in goals} <= known
    assert all(goal.against not in (COPY, READ) or goal.against == work.memory for work, goal in goals)
    # a goal of each row of the design
    assert {work.op for work, _ in goals} == {
        "softmax", "logsumexp", "cross_entropy_and_grad", "temperature_objective", "evaluate",
    }  # fmt: skip


def test_goals_have_a_side():
    (at_most,) = {goal for work in WORKS for goal in work.goals if goal.against == COPY and goal.bound == 1.6}
    assert at_most.met(1.5) and at_most.met(1.6) and not at_most.met(1.7)  # noqa: PT018
    (at_least,) = {goal for work in WORKS for goal in work.goals if goal.against == "SciPy" and goal.bound == 25}
    assert at_least.met(26) and at_least.met(25) and not at_least.met(24)  # noqa: PT018
    assert (str(at_most), str(at_least)) == ("≤ 1.6 × copy", "≥ 25 × SciPy")


def test_quick_is_the_same_groups_small():
    assert list(quick_groups()) == list(groups())
    for work in [*chosen(quick=True), *by_k(quick=True)]:
        assert np.prod(work.shape) <= 50_000
        assert work.goals == ()
        assert not work.peak


def test_chosen_keeps_the_order_and_names_the_nearest():
    assert chosen(["logsumexp", "axes"]) == [*groups()["axes"], *groups()["logsumexp"]]
    assert len(WORKS) == len({(work.name, work.size) for work in WORKS})
    with pytest.raises(ValueError, match=r"no work 'sofmax'; there are softmax, axes, .*; did you mean softmax\?$"):
        chosen(["sofmax"])
    with pytest.raises(ValueError, match=r"did you mean log-softmax\?"):
        chosen(["log_softmax"])
    with pytest.raises(ValueError, match="no work 'xyz'; there are .* evaluate$"):
        chosen(["xyz"])


def test_inputs_are_the_same_every_time():
    for work in chosen(quick=True):
        one, other = work.inputs(), work.inputs()
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.logits.dtype == work.dtype
        assert one.out.shape == (work.shape if work.result == "out" else (0,))
        assert set(np.unique(one.labels)) <= set(range(work.shape[work.axis]))


def test_every_op_is_ours_and_has_a_name():
    assert set(OURS) == set(TITLES) == {work.op for work in WORKS}


@pytest.mark.parametrize(
    ("n", "said"),
    [(10**6, "1M"), (10**5, "100k"), (50_000, "50k"), (1024, "1024"), (1000, "1000"), (131_072, "131072"), (1, "1")],
)
def test_sizes_are_short_and_exact(n, said):
    assert short(n) == said


def test_few_rows_keep_the_classes():
    assert {w.of_few_rows().shape for w in WORKS if w.shape == (64, 21, 128, 128)} == {(2, 21, 2, 2)}
    assert {w.of_few_rows().shape for w in WORKS if w.shape == (1, 1000)} == {(1, 1000)}
    assert {w.of_few_rows(1 << 20).shape for w in WORKS if w.shape == (1, 1000)} == {(1, 1000)}
    assert {w.of_few_rows(1 << 20).shape for w in WORKS if w.shape == (50_000, 1000)} == {(1049, 1000)}
