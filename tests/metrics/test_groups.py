import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softargmax.metrics._groups import GroupSums, group_ids, in_pairs
from softargmax.metrics._sums import Sum


def definition(ids, columns) -> dict[int, list[float]]:
    """Sums by a loop over the rows."""
    sums: dict[int, list[float]] = {}
    for id_, *row in zip(ids.tolist(), *columns.tolist(), strict=True):
        sums[id_] = [a + b for a, b in zip(sums.get(id_, [0.0] * len(row)), row, strict=True)]
    return sums


def as_dict(groups: GroupSums) -> dict[int, list[float]]:
    assert np.all(groups.ids[1:] > groups.ids[:-1])
    return dict(zip(groups.ids.tolist(), groups.sums.value.tolist(), strict=True))


@st.composite
def divided_rows(draw):
    n, m = draw(st.integers(0, 40)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = rng.choice([-5, 0, 1, 2, 9, 2**62, -(2**63)], n)
    columns = rng.integers(-8, 9, (m, n)) / 4  # exact in any order
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return ids, columns, draw(st.permutations(list(np.split(rng.permutation(n), cuts))))


def law_parts_are_the_whole(merged, ids, columns, parts) -> None:
    assert as_dict(merged([GroupSums.of(ids[part], columns[:, part]) for part in parts])) == definition(ids, columns)


def one_by_one(parts):
    total, *others = parts
    for part in others:
        total = total.merge(part)
    return total


@given(divided_rows())
def test_any_split_in_any_order_merges_to_the_whole(rows):
    law_parts_are_the_whole(one_by_one, *rows)
    law_parts_are_the_whole(in_pairs, *rows)


def test_the_law_of_merges_rejects_sums_that_stay_beside_each_other():
    def no_union(parts):
        ids = np.concatenate([part.ids for part in parts])
        high = np.concatenate([part.sums.high for part in parts])
        return GroupSums(ids, Sum.of(high))

    rows = np.array([1, 2, 1]), np.ones((1, 3)), [np.array([0, 1]), np.array([2])]
    law_parts_are_the_whole(in_pairs, *rows)
    with pytest.raises(AssertionError):
        law_parts_are_the_whole(no_union, *rows)


def test_parts_of_a_group_lose_nothing():
    tenths = [GroupSums.of(np.array([4]), np.array([[0.1]])) for _ in range(20_000)]
    assert in_pairs(tenths).sums.value[0, 0] == pytest.approx(2000, rel=1e-15)
    assert one_by_one(tenths).sums.value[0, 0] == pytest.approx(2000, rel=1e-15)
    long = np.full((1, 1_000_000), 0.1)
    assert GroupSums.of(np.zeros(1_000_000, int), long).sums.value[0, 0] == pytest.approx(1e5, rel=5e-13, abs=0)
    assert np.bincount(np.zeros(1_000_000, int), long[0])[0] != pytest.approx(1e5, rel=5e-13, abs=0)


def test_order_is_kept():
    class Word(str):
        def merge(self, other):
            return Word(self + other)

    for n in (1, 2, 3, 7, 8, 13):
        assert in_pairs(Word(letter) for letter in "abcdefghijklm"[:n]) == "abcdefghijklm"[:n]


def law_blocks_are_cheap(merge_all) -> None:
    """1000 blocks of new groups: merging copies each group some ten times, not five hundred times."""
    copied = []

    class Counted:
        def __init__(self, groups):
            self.groups = groups

        def merge(self, other):
            copied.append(self.groups + other.groups)
            return Counted(self.groups + other.groups)

    assert merge_all([Counted(1) for _ in range(1000)]).groups == 1000
    assert sum(copied) < 11 * 1000


def test_blocks_are_cheap():
    law_blocks_are_cheap(in_pairs)


def test_the_law_of_blocks_rejects_merging_each_with_the_whole():
    with pytest.raises(AssertionError):
        law_blocks_are_cheap(one_by_one)


def test_nothing_can_be_changed():
    groups = GroupSums.of(np.array([1, 2]), np.ones((1, 2)))
    for array in (groups.ids, groups.merge(groups).ids, groups.sums.high):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_ids_follow_the_labels_dimension_by_dimension():
    assert group_ids([3, 1, 1], (3,)).tolist() == [3, 1, 1]
    assert group_ids(np.array([[5], [6]], np.uint8), (2, 3)).tolist() == [5, 5, 5, 6, 6, 6]
    assert group_ids(torch.tensor([[[5]], [[6]]]), (2, 1, 2)).tolist() == [5, 5, 6, 6]
    assert group_ids(7, ()).tolist() == [7]
    assert group_ids([], (0,)).dtype == np.int64


@pytest.mark.parametrize(
    ("groups", "shape", "kind", "message"),
    [
        ([0.0, 1.0], (2,), TypeError, r"^groups must be integers, one id a group; got dtype float64; for other names "),
        (["a", "b"], (2,), TypeError, r"^groups must be integers, one id a group; got dtype <U1"),
        ([True, False], (2,), TypeError, r"^groups must be integers, one id a group; got dtype bool"),
        ([0, 1, 2], (2,), ValueError, r"^groups must have the shape of the labels \(2,\), or 1 .*; got shape \(3,\)$"),
        ([0, 1], (2, 2, 2), ValueError, r"got shape \(2,\); for one id a line pass groups\[:, None, None\]$"),
        ([0, 1], (2, 2), ValueError, r"pass groups\[:, None\]$"),  # NumPy would follow the columns
        (np.array([2**63], np.uint64), (1,), ValueError, r"^groups must fit in int64; got 9223372036854775808$"),
    ],
)
def test_bad_groups_are_named(groups, shape, kind, message):
    with pytest.raises(kind, match=message):
        group_ids(groups, shape)
