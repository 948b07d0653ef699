"""How far a result is from the exact one: the units, and that whatever is broken is found."""

import math
import sys

import numpy as np
import pytest

from softargmax import ops
from softargmax.parity import LIBRARIES, PEERS, Library, Unavailable, cases, compare, document, installed
from softargmax.parity.measure import _in_budgets

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture(scope="module")
def numpy_table():
    return compare(Library(np), cases())


def broken(monkeypatch, op, replacement):
    """The outcomes of NumPy's float32 with `op` replaced by a function of the right one."""
    right = getattr(ops, op)

    def wrong(*arguments, **options):
        return replacement(right, *arguments, **options)

    monkeypatch.setattr(ops, op, wrong)
    table = compare(Library(np), [case for case in cases() if case.dtype == "float32" and case.op == op])
    return [outcome for outcome in table.wrong if outcome.case.op == op]


def test_numpy_is_within_the_budget_everywhere(numpy_table):
    assert numpy_table.wrong == ()
    assert sum(row.total for row in numpy_table.rows if row.dtype != "bfloat16") == 181
    for row in numpy_table.rows:
        of_dtype = [case for case in cases() if case.dtype == row.dtype]
        assert row.total == len(of_dtype)
        # all but those that want derivatives
        assert [outcome.case for outcome in row.outcomes] == [case for case in of_dtype if case.cotangent is None]
        assert row.edges == row.edges_right > 50
        assert 0 < row.worst.error < 1


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.minutes if kind.name == "jax" else ()) for kind in LIBRARIES]
)
def test_every_installed_library_is_within_the_budget(kind):
    pytest.importorskip(kind.module)
    for library in installed([kind]):
        table = compare(library, cases())
        assert [(o.case.op, o.case.name, o.case.dtype, o.problem, o.differences) for o in table.wrong] == []
        ran = sum(len(row.outcomes) for row in table.rows)
        # with autograd all but what only NumPy has
        assert ran == sum(row.total for row in table.rows) - 5 if kind.differentiates else ran > 100


def test_jax_is_within_the_budget_in_bfloat16():
    pytest.importorskip("jax")
    (library,) = installed([kind for kind in LIBRARIES if kind.name == "jax"])
    some = [case for case in cases() if case.dtype == "bfloat16" and case.op in ("softmax", "cross_entropy")]
    table = compare(library, some)
    assert table.wrong == ()
    assert {row.dtype: len(row.outcomes) for row in table.rows if row.outcomes} == {"bfloat16": len(some)}


def test_a_value_that_is_off_is_found(monkeypatch):
    wrong = broken(monkeypatch, "softmax", lambda f, *a, **o: f(*a, **o) * np.float32(1 + 2e-5))
    assert {"K = 3", "K = 1,000", "edge table", "T = 0.5"} <= {outcome.case.name for outcome in wrong}
    (tutorial,) = (outcome for outcome in wrong if outcome.case.name == "K = 3")
    assert 3 < tutorial.error < 30
    (cell,) = tutorial.differences
    assert cell.call.startswith("softmax([")
    assert (cell.edge, cell.error) == (False, tutorial.error)
    assert cell.found == pytest.approx(cell.exact * (1 + 2e-5), rel=1e-6)


def test_a_formula_without_log1p_is_found(monkeypatch):
    def naive(f, z, **options):
        return np.log(ops.softmax(z, **options))

    with np.errstate(all="ignore"):
        wrong = broken(monkeypatch, "log_softmax", naive)
    (sure,) = (outcome for outcome in wrong if outcome.case.name == "sure rows")
    assert sure.error > 1e5
    assert sure.differences[0].call == "log_softmax([16.942385, 0])"


def test_an_edge_that_is_off_is_found(monkeypatch):
    def no_infinities(f, z, **options):
        with np.errstate(all="ignore"):
            e = np.exp(z - z.max(axis=-1, keepdims=True, initial=-np.inf))
            return e / e.sum(axis=-1, keepdims=True)

    def without_options(f, *arguments, **options):
        return f(*arguments, **options) if options else no_infinities(f, *arguments)

    wrong = {outcome.case.name: outcome for outcome in broken(monkeypatch, "softmax", without_options)}
    assert set(wrong) == {"edge table"}
    outcome = wrong["edge table"]
    # [1, inf, 3], [inf, 1, inf], [inf, -inf, 0]
    assert (outcome.edges - outcome.edges_right, outcome.error <= 1) == (9, True)
    (cell,) = outcome.differences
    assert (cell.call, cell.edge, cell.exact) == ("softmax([1, inf, 3])", True, 0.0)
    assert math.isnan(cell.found)


@pytest.mark.parametrize(
    ("replacement", "problem"),
    [
        (lambda f, *a, **o: f(*a, **o).astype(np.float64), "returned float64 (4, 3) where float32 (4, 3) is due"),
        (lambda f, *a, **o: f(*a, **o)[:1], "returned float32 (1, 3) where float32 (4, 3) is due"),
        (lambda f, *a, **o: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_results_of_another_kind_and_exceptions_are_found(monkeypatch, replacement, problem):
    wrong = broken(monkeypatch, "softmax", replacement)
    (outcome,) = (outcome for outcome in wrong if outcome.case.name == "K = 3")
    assert (outcome.problem, outcome.error, outcome.edges_right) == (problem, math.inf, 0)
    if "float64" in problem:  # an empty result has a dtype too
        assert any(outcome.case.name == "K = 0" for outcome in wrong)


def test_a_loss_in_half_precision_is_found(monkeypatch):
    monkeypatch.setattr(ops, "logsumexp", lambda z, **_: np.float16(ops.log_prob(z, np.zeros(len(z), int))))
    table = compare(Library(np), [case for case in cases() if (case.op, case.dtype) == ("logsumexp", "float16")])
    assert all("where float32" in outcome.problem or "Error" in outcome.problem for outcome in table.wrong)
    assert len(table.wrong) == 5


def test_a_row_that_does_not_sum_to_one_is_found(monkeypatch):
    wrong = broken(
        monkeypatch, "for_sampling", lambda f, p: p.astype(np.float64) / p.astype(np.float64).sum(-1)[:, None]
    )
    assert [cell.edge for outcome in wrong for cell in outcome.differences] == [True]


def test_a_gradient_that_is_off_is_found(monkeypatch):
    torch = pytest.importorskip("torch")

    class Leaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, g):
            return g + 1e-3

    right = ops.log_softmax
    monkeypatch.setattr(ops, "log_softmax", lambda z, **options: right(Leaky.apply(z), **options))
    (library, *_) = installed([kind for kind in LIBRARIES if kind.name == "torch"])
    table = compare(library, [case for case in cases() if case.op == "log_softmax" and case.dtype == "float32"])
    found = {outcome.case.name for outcome in table.wrong}
    assert found == {
        outcome.case.name for row in table.rows for outcome in row.outcomes if outcome.case.cotangent is not None
    }
    assert len(found) == 4


@pytest.mark.parametrize("dtype", EPS)
def test_the_unit_is_the_budget_and_a_rounding_of_half_precision(dtype):
    exact, budget = np.array([0.75, -3.0, 0.0]), np.array([0.25, 0.5, 0.125])
    rounding = EPS[dtype] / 2 * np.abs(exact) if EPS[dtype] > 1e-6 else np.zeros(3)
    rounding[2] = 8 * float({"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}.get(dtype, 5e-324))
    for times in (0.0, 0.5, 1.0, 3.0):
        found = exact + times * (budget + rounding)
        errors = _in_budgets(found, dtype, exact, budget)
        # an exact 0 may come as 0, whatever the budget
        np.testing.assert_allclose(errors, times, rtol=1e-12)


def test_no_number_is_infinitely_far_and_an_edge_is_met_or_not():
    inf, nan = math.inf, math.nan
    exact = np.array([1.0, 1.0, 0.0, inf, nan, nan, inf, 0.0])
    found = np.array([nan, -inf, 1e-300, inf, nan, 0.0, -inf, -0.0])
    budget = np.array([9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(_in_budgets(found, "float64", exact, budget), [inf, inf, inf, 0, 0, inf, inf, 0])


def test_what_is_below_the_normal_numbers_may_be_flushed():
    exact = np.array([1e-40, 1e-40, 1e-37])
    found = np.array([0.0, 1.1e-40, 0.0])
    errors = _in_budgets(found, "float32", exact, np.array([1e-47, 1e-47, 1e-44]))
    assert errors[0] == 0
    assert errors[1] > 100
    assert errors[2] > 1000


def test_a_library_that_is_not_installed_is_passed_over():
    class Nowhere(Library):
        module = name = "no_such_array_library"

    assert list(installed([Nowhere])) == []
    assert [library.name for library in installed([Nowhere, Library])] == ["NumPy"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "raise ImportError('libfast.so: cannot open\\n shared object file')",
            "ImportError: libfast.so: cannot open shared object file",
        ),
        ("raise OSError", "OSError"),
        ("x = 1", "AttributeError: module 'broken_arrays' has no attribute '__version__'"),
    ],
)
def test_a_library_that_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch, source, reason):
    class Broken(Library):
        module = name = "broken_arrays"

    (tmp_path / "broken_arrays.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_arrays", raising=False)
    broken_one, numpy = installed([Broken, Library])
    assert broken_one == Unavailable("broken_arrays", reason)
    assert numpy.name == "NumPy"
    (told,) = document([broken_one])
    assert (told["unavailable"], told["version"], told["dtypes"]) == (reason, None, [])
    sys.modules.pop("broken_arrays", None)


def test_cuda_is_another_device(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = list(installed([kind for kind in LIBRARIES if kind.name == "torch"]))
    assert [library.device for library in found] == ["cpu", "cuda"]


def test_scipy_runs_what_it_has_and_its_known_flaws_are_found():
    (scipy,) = installed([kind for kind in PEERS if kind.name == "scipy"])
    table = compare(scipy, cases(), ours=False)
    ran = [outcome.case for row in table.rows for outcome in row.outcomes]
    assert {case.op for case in ran} == {"softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid"}
    assert not any(case.cotangent is not None or set(case.options) - {"axis", "keepdims"} for case in ran)
    found = {(outcome.case.op, outcome.case.name, outcome.case.dtype): outcome for outcome in table.wrong}
    # log(sum(exp)) without log1p; exp(inf - inf); but its logsumexp knows infinities
    assert found["log_softmax", "sure rows", "float32"].error > 1e5
    assert found["softmax", "edge table", "float32"].edges_right < found["softmax", "edge table", "float32"].edges
    assert ("logsumexp", "edge table", "float32") not in found


def test_a_peer_is_not_blamed_for_a_dtype_of_its_own():
    class Doubles(Library):
        name = "doubles"

        def functions(self):
            return {"softmax": lambda z: ops.softmax(z.astype(np.float64))}

    some = [case for case in cases() if case.op == "softmax" and case.dtype == "float32" and not case.options]
    assert compare(Doubles(np), some, ours=False).wrong == ()
    assert {o.problem.partition(" (")[0] for o in compare(Doubles(np), some).wrong} == {"returned float64"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.minutes if kind.name == "jax.nn" else ()) for kind in PEERS]
)
def test_every_function_of_a_peer_answers(kind):
    pytest.importorskip(kind.module)
    for peer in installed([kind]):
        table = compare(peer, cases(), ours=False)
        ran = {outcome.case.op for row in table.rows for outcome in row.outcomes}
        assert ran == set(peer.functions())
        # where rows and classes are there, what a function says is a result
        problems = {o.case.name: o.problem for row in table.rows for o in row.outcomes if o.problem}
        assert set(problems) <= {"K = 0"}, problems
