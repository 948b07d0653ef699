"""The figures of docs/tutorials-get-wrong.md, from their definitions. Its examples run with those of all pages."""

import json
import math
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest

import softargmax as sa

TEXT = (Path(__file__).parents[2] / "docs" / "tutorials-get-wrong.md").read_text()


def exact(scores, temperature=1):
    """softmax of a row, in 50 digits."""
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(z) / temperature) for z in scores]
        return np.array([float(x / mpmath.fsum(e)) for x in e])


def said(figure):
    """The page has the figure, and not only as a part of a longer one."""
    return re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d]|\.\d)", TEXT) is not None


def test_only_differences_matter():
    for scores in ([-1, -2, -3], [1002, 1001, 1000]):
        np.testing.assert_array_equal(exact(scores).round(3), [0.665, 0.245, 0.09])
        np.testing.assert_allclose(sa.softmax(scores), exact(scores), rtol=1e-14)
    assert said("[0.665, 0.245, 0.09 ]")
    np.testing.assert_array_equal(exact([-2, -4, -6]).round(3), exact([-1, -2, -3], temperature=0.5).round(3))
    assert said(str(exact([-2, -4, -6]).round(3).tolist()))


@pytest.mark.parametrize(
    ("dtype", "score", "log"), [("float16", 12, 11.09), ("float32", 89, 88.72), ("float64", 710, 709.78)]
)
def test_where_the_naive_formula_overflows(dtype, score, log):
    assert said(f"{score} in {dtype}")
    assert said(f"{log:.2f}")
    assert float(mpmath.log(float(np.finfo(dtype).max))) == pytest.approx(log, abs=0.005)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isinf(np.exp(np.dtype(dtype).type(score)))
        assert np.isfinite(np.exp(np.dtype(dtype).type(score - 1)))
        z = np.array([score, 0], dtype)
        assert np.isnan((np.exp(z) / np.exp(z).sum())[0])
    np.testing.assert_allclose(sa.softmax(z), exact([score, 0]), atol=np.finfo(dtype).tiny)


def test_the_sum_overflows_before():
    with np.errstate(over="ignore"):
        two = np.exp(np.array([11, 11], np.float16))
        assert np.isfinite(two).all()
        assert (two / two.sum() == 0).all()
    assert said("two scores of 11")
    np.testing.assert_array_equal(sa.softmax(np.array([11, 11], np.float16)), [0.5, 0.5])


def test_the_log_of_a_probability_that_is_0():
    with np.errstate(divide="ignore"):
        assert np.log(sa.softmax([0, 1000]))[0] == -math.inf
    assert sa.log_softmax([0, 1000])[0] == -1000  # -1000 - log1p(exp(-1000))
    torch = pytest.importorskip("torch")
    z = torch.tensor([0.0, 1000.0], requires_grad=True)
    naive = -torch.log(torch.softmax(z, -1))[0]
    assert naive.item() == math.inf
    assert torch.autograd.grad(naive, z)[0].isnan().all()
    np.testing.assert_array_equal(torch.autograd.grad(-sa.log_softmax(z)[0], z)[0], [-1, 1])
    assert said("−1000")


def test_rows_sum_to_1_only_to_rounding():
    p = sa.softmax(np.zeros(3, np.float32))
    np.testing.assert_array_equal(p, np.float32(1) / np.float32(3))
    assert round(math.fsum(p.tolist()), 9) == 1.00000003
    with pytest.raises(ValueError, match="do not sum to 1"):
        np.random.default_rng(0).choice(3, p=p.astype(float))
    np.random.default_rng(0).choice(3, p=sa.for_sampling(p))
    assert math.fsum(sa.for_sampling(p).tolist()) == 1


@pytest.mark.parametrize("z", [-40.0, -2.0, 0.0, 0.3, 2.0, 40.0])
@pytest.mark.parametrize("y", [0, 1])
def test_two_classes_are_one_sigmoid(z, y):
    with mpmath.workdps(50):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(z)))
        loss, slope = float(-mpmath.log(p if y else 1 - p)), float(p - y)
    value, gradient = sa.cross_entropy_and_grad([0.0, z], y)
    np.testing.assert_allclose([value, sa.binary_cross_entropy([z], [y])], loss, rtol=1e-13)
    np.testing.assert_allclose(gradient, [-slope, slope], rtol=1e-13)
    for library in ("torch", "jax", "tensorflow"):
        np.testing.assert_allclose(slope_of_the_sigmoid_loss(library, z, y), slope, rtol=1e-5, atol=1e-7)


def slope_of_the_sigmoid_loss(library, z, y):
    module = pytest.importorskip(library)
    if library == "torch":
        z = module.tensor([z], requires_grad=True)
        return module.autograd.grad(sa.binary_cross_entropy(z, module.tensor([y])), z)[0].item()
    if library == "jax":
        return float(module.grad(lambda z: sa.binary_cross_entropy(z, module.numpy.array(y)))(z))
    z = module.constant([z])
    with module.GradientTape() as tape:
        tape.watch(z)
        loss = sa.binary_cross_entropy(z, module.constant([y]))
    return float(tape.gradient(loss, z)[0])


def test_the_figures_of_two_classes():
    assert said(str(round(math.log1p(math.exp(-2)), 6)))
    assert said(str(round(1 / (1 + math.exp(-2)) - 1, 6)))


def test_argmax_has_no_slope_where_softmax_has_its_jacobian():
    z, step = np.array([2.0, 1.0, 0.1]), 1e-6
    for k in range(3):
        moved = z + step * np.eye(3)[k]
        hard = (moved == moved.max()).astype(float) - (z == z.max())
        np.testing.assert_array_equal(hard, 0)
        soft = (exact(z + step * np.eye(3)[k]) - exact(z - step * np.eye(3)[k])) / (2 * step)
        np.testing.assert_allclose(soft, sa.softmax_jacobian(z)[:, k], rtol=1e-6)
        assert np.abs(soft).max() > 0.05


def test_smoothing_is_shared_by_all_classes():
    target = 0.9 * np.eye(4)[0] + 0.1 / 4
    np.testing.assert_allclose(target, [0.925, 0.025, 0.025, 0.025], rtol=1e-15)
    assert said("[0.925, 0.025, 0.025, 0.025]")
    z = np.array([2.0, 1.0, 0.0, -1.0])
    loss = -float(target @ np.log(exact(z)))
    assert sa.cross_entropy(z, 0, label_smoothing=0.1) == pytest.approx(loss, rel=1e-14)
    assert said(str(round(loss, 6)))
    other = -float(np.array([0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3]) @ np.log(exact(z)))
    assert abs(other - loss) > 0.01  # what many tutorials describe is another loss


@pytest.mark.parametrize("k", [2, 10, 1000])
def test_softmax_twice_has_a_floor(k):
    floor = math.log1p((k - 1) / math.e)
    assert sa.cross_entropy(np.eye(k)[:1], [0]) == pytest.approx(floor, rel=1e-14)
    assert sa.cross_entropy(sa.logits_from_probs(np.eye(k)[:1]), [0]) == 0
    assert k != 10 or said(f"{floor:.4f}")


@pytest.mark.parametrize(
    ("scores", "values"), [([2, 1, 0.1], "[0.659, 0.242, 0.099]"), ([2, 1, 0.5], "[0.629, 0.231, 0.140]")]
)
def test_values_that_tutorials_print(scores, values):
    assert said(f"`{values}`")
    np.testing.assert_array_equal(exact(scores).round(3), json.loads(values))
    np.testing.assert_array_equal(sa.softmax(scores).round(3), json.loads(values))
