"""Calibration on a stream: partial_fit, update, and saying when a temperature has moved."""

import json
import math
import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import softargmax as sa
from softargmax import CalibrationDegenerateWarning, LiftedLogitsWarning, TemperatureScaling
from softargmax.calibration import PriorCorrection, temperature
from softargmax.calibration.drift import temperature_drift
from softargmax.data import cifar10_resnet20


def draw(t=2.5, n=2000, k=10, seed=0, scale=4.0):
    """Logits, and labels drawn from softmax(logits / t)."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((n, k))
    return logits, (logits / t + rng.gumbel(size=(n, k))).argmax(-1)


def stream(batches, first=None, **options):
    """A calibrator that was given all of them, one by one, perhaps after a fit to `first`."""
    calibrator = TemperatureScaling(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationDegenerateWarning)
        if first is not None:
            calibrator.fit(*first)
        for batch in batches:
            calibrator.partial_fit(*batch)
    return calibrator


def together(batches):
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def real_batches(how):
    data = cifar10_resnet20()
    rng = np.random.default_rng(0)
    if how == "drawn":
        rows = rng.integers(0, len(data.labels), (50, 2000))
    elif how == "once":
        rows = np.split(rng.permutation(len(data.labels)), 10)
    else:  # nothing but one class for a while, then another
        rows = np.split(np.argsort(data.labels, kind="stable"), 100)
    return [(data.scores[i], data.labels[i]) for i in rows]


# ---- TemperatureScaling.partial_fit: what it comes to ----


def law_comes_to_the_batch_fit(calibrator, batches):
    """T within 0.2%, the ends of the interval within 5% of its width, the likelihoods within 1e-3 nats."""
    fit = TemperatureScaling().fit(*together(batches))
    assert calibrator.temperature_ == pytest.approx(fit.temperature_, rel=2e-3)
    width = np.diff(fit.interval())[0]
    np.testing.assert_allclose(calibrator.interval(), fit.interval(), rtol=0, atol=0.05 * width)
    assert calibrator.nll_before_ == pytest.approx(fit.nll_before_, rel=1e-12)
    assert calibrator.nll_after_ == pytest.approx(fit.nll_after_, abs=1e-3)
    assert not calibrator.at_bound_


@pytest.mark.parametrize("k", [2, 10, 100])
def test_fifty_batches_come_to_the_batch_fit(k):
    batches = [draw(k=k, seed=seed) for seed in range(50)]
    law_comes_to_the_batch_fit(stream(batches), batches)


@pytest.mark.parametrize("how", ["drawn", "once", "sorted by class"])
def test_batches_of_the_shipped_network_come_to_the_batch_fit(how):
    batches = real_batches(how)
    law_comes_to_the_batch_fit(stream(batches), batches)


@pytest.mark.parametrize(("n", "n_batches", "k"), [(20, 200, 10), (1, 1500, 10), (1, 1500, 2), (7, 300, 100)])
def test_small_batches_add_up_too(n, n_batches, k):
    batches = [draw(n=n, k=k, seed=seed) for seed in range(n_batches)]
    fit, got = TemperatureScaling().fit(*together(batches)), stream(batches)
    assert math.log(got.temperature_ / fit.temperature_) ** 2 * fit._profile.precision < 0.3**2  # standard errors


@pytest.mark.filterwarnings("ignore::softargmax.AbsentClassesWarning")
@pytest.mark.parametrize("k", [2, 10, 100])
@pytest.mark.parametrize("t", [0.25, 25.0])
def test_a_bad_start_is_forgotten(t, k):
    batches = [draw(k=k, seed=seed) for seed in range(50)]
    fit = TemperatureScaling().fit(*together(batches))
    for n in (30, 2000):  # of the start, where T is ten times off
        first = draw(t, n, k, seed=1000)
        got = stream(batches, first)
        assert got.temperature_ == pytest.approx(fit.temperature_, rel=0.01)
    assert stream([], first).temperature_ == pytest.approx(t, rel=0.4)


def test_a_start_at_a_tenth_comes_back_on_the_shipped_network():
    data = cifar10_resnet20()
    for factor in (0.1, 10.0):
        first = (data.scores[:200] * (factor / 2.56), data.labels[:200])  # as if the old network's scale were another
        got = stream(real_batches("drawn"), first)
        fit = TemperatureScaling().fit(*together(real_batches("drawn")))
        assert TemperatureScaling().fit(*first).temperature_ == pytest.approx(factor, rel=0.2)
        assert got.temperature_ == pytest.approx(fit.temperature_, rel=0.01)


class Averages(TemperatureScaling):
    """The mean of the temperatures of the batches."""

    def partial_fit(self, X, y):
        found = [*getattr(self, "found", []), TemperatureScaling().fit(X, y).temperature_]
        self.fit(X, y)
        self.found, self.temperature_ = found, float(np.mean(found))


class Forgets(TemperatureScaling):
    """The last batch alone."""

    def partial_fit(self, X, y):
        self.fit(X, y)


class Steps(TemperatureScaling):
    """One step of gradient descent a batch."""

    def partial_fit(self, X, y):
        at = getattr(self, "temperature_", 1.0)
        self.fit(X, y)
        self.temperature_ = at + 0.1 * (self.temperature_ - at)


@pytest.mark.parametrize("broken", [Averages, Forgets, Steps])
def test_the_law_rejects(broken):
    batches = [draw(n=400, seed=seed) for seed in range(20)]
    calibrator = broken()
    for batch in batches:
        calibrator.partial_fit(*batch)
    with pytest.raises(AssertionError):
        law_comes_to_the_batch_fit(calibrator, batches)


def test_the_first_batch_is_fitted_as_by_fit():
    rows = draw(n=300)
    one, other = TemperatureScaling().partial_fit(*rows), TemperatureScaling(decay=0.5).fit(*rows)
    for name in ("temperature_", "nll_before_", "nll_after_", "n_iter_", "grad_norm_", "converged_", "at_bound_"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.interval() == other.interval()
    assert one.partial_fit(*draw(seed=1)) is one


def test_fit_begins_anew():
    rows = draw(n=300)
    calibrator = stream([draw(0.3), draw(0.4)], decay=0.9).fit(*rows)
    assert calibrator.temperature_ == TemperatureScaling().fit(*rows).temperature_
    assert calibrator.partial_fit(*draw(seed=1)).temperature_ == stream([draw(seed=1)], rows, decay=0.9).temperature_


def test_a_batch_is_read_a_few_times(monkeypatch):
    reads = []
    objective = temperature.temperature_objective
    monkeypatch.setattr(temperature, "temperature_objective", lambda *args: reads.append(1) or objective(*args))
    calibrator = stream([draw(seed=seed) for seed in range(5)])
    reads.clear()
    for seed in range(5, 25):
        calibrator.partial_fit(*draw(seed=seed))
        assert calibrator.n_iter_ <= 4
        assert calibrator.converged_
        assert calibrator.grad_norm_ < 1e-6
    assert len(reads) <= 2.5 * 20


# ---- decay ----


def test_decay_follows_a_drift():
    batches = [draw(2.0 if step < 60 else 3.0, 500, 4, seed=step) for step in range(180)]
    fading, keeping = stream(batches[:60], decay=0.95), stream(batches[:60])
    assert fading.temperature_ == pytest.approx(2.0, rel=0.05)
    for batch in batches[60:]:
        fading.partial_fit(*batch)
        keeping.partial_fit(*batch)
    low, high = fading.interval(0.99)
    assert low < 3.0 < high
    assert keeping.temperature_ < 2.8
    recent = TemperatureScaling().fit(*together(batches[-20:]))
    assert fading.temperature_ == pytest.approx(recent.temperature_, rel=0.05)


@pytest.mark.parametrize("decay", [0.8, 0.95])
def test_a_faded_stream_is_the_fit_with_faded_weights(decay):
    batches = [draw(n=500, seed=seed) for seed in range(60)]
    weights = np.repeat(decay ** np.arange(59, -1, -1.0), 500)
    fit = TemperatureScaling().fit(*together(batches), sample_weight=weights)
    assert stream(batches, decay=decay).temperature_ == pytest.approx(fit.temperature_, rel=2e-3)


@pytest.mark.parametrize(("decay", "n_batches"), [(1.0, 6), (0.8, 20)])
def test_the_interval_covers_what_made_the_labels(decay, n_batches):
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        low, high = stream(
            [draw(n=100, k=4, seed=int(rng.integers(1 << 40))) for _ in range(n_batches)], decay=decay
        ).interval()
        covered += low < 2.5 < high
    assert 0.91 <= covered / 200 <= 0.985  # 0.95 and two and a half standard errors


@pytest.mark.parametrize("decay", [0, -0.1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("method", [TemperatureScaling, PriorCorrection])
def test_a_decay_that_makes_no_sense(method, decay):
    with pytest.raises(ValueError, match=r"decay must lie in \(0, 1\]; got .*; 1 forgets nothing"):
        method(decay=decay).fit(*draw(n=50))
    calibrator = method().fit(*draw(n=500)).set_params(decay=decay)
    go_on = calibrator.update if method is PriorCorrection else lambda y: calibrator.partial_fit(draw(n=50)[0], y)
    with pytest.raises(ValueError, match=r"decay must lie in \(0, 1\]"):
        go_on(draw(n=50)[1])


def test_what_has_faded_away_says_nothing():
    calibrator = stream([draw(n=300, k=3)] + [(np.zeros((2, 3)), [0, 1])] * 600, decay=0.5)
    assert calibrator.interval() == (0.0, math.inf)
    assert calibrator.temperature_ == TemperatureScaling().fit(*draw(n=300, k=3)).temperature_
    fit = TemperatureScaling().fit(*draw(n=300, k=3, seed=1))
    assert calibrator.partial_fit(*draw(n=300, k=3, seed=1)).temperature_ == pytest.approx(fit.temperature_, rel=1e-6)


# ---- weights, scales, libraries ----


def test_whole_weights_are_repeated_rows():
    batches = [draw(n=300, seed=seed) for seed in range(6)]
    counts = np.random.default_rng(0).integers(0, 4, (6, 300))
    weighted, repeated = TemperatureScaling(), TemperatureScaling()
    for (logits, labels), count in zip(batches, counts, strict=True):
        weighted.partial_fit(logits, labels, count)
        repeated.partial_fit(np.repeat(logits, count, axis=0), np.repeat(labels, count))
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=1e-9)
    np.testing.assert_allclose(weighted.interval(), repeated.interval(), rtol=1e-9)


def test_weights_count_across_batches():
    batches = [draw(2.0 + 0.1 * (seed % 2), n=800, seed=seed) for seed in range(8)]
    weights = np.repeat([1e-3 * 3 ** (seed % 2) for seed in range(8)], 800)  # sums below the number of rows
    calibrator = TemperatureScaling()
    for (logits, labels), w in zip(batches, np.split(weights, 8), strict=True):
        calibrator.partial_fit(logits, labels, sample_weight=w)
    fit = TemperatureScaling().fit(*together(batches), sample_weight=weights)
    assert calibrator.temperature_ == pytest.approx(fit.temperature_, rel=1e-3)
    np.testing.assert_allclose(calibrator.interval(), fit.interval(), atol=0.06 * np.diff(fit.interval())[0], rtol=0)


@pytest.mark.parametrize("scale", [1e-200, 1e-4, 1e4, 1e200])
def test_the_scale_of_the_logits_is_free(scale):
    batches = [draw(n=20, k=3, seed=seed) for seed in range(30)]
    scaled = stream([(logits * scale, labels) for logits, labels in batches])
    assert scaled.temperature_ / scale == pytest.approx(stream(batches).temperature_, rel=1e-9)


def test_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    batches = [draw(n=300, seed=seed) for seed in range(3)]
    of_torch = stream([(torch.from_numpy(z).requires_grad_(), torch.from_numpy(y)) for z, y in batches])
    assert of_torch.temperature_ == stream(batches).temperature_


# ---- batches that say little ----


def right_rows(n, seed=5):
    logits, labels = draw(n=4 * n + 50, seed=seed)
    right = logits.argmax(-1) == labels
    return logits[right][:n], labels[right][:n]


@pytest.mark.parametrize("n", [1, 50])
def test_rows_that_are_all_right_or_of_one_class_do_not_throw_t_away(n):
    batches = [draw(n=2000, seed=seed) for seed in range(5)]
    logits, labels = draw(n=1000, seed=7)
    one_class = logits[labels == 3][:n], labels[labels == 3][:n]
    for odd in (right_rows(n), one_class, (np.ones((n, 10)), np.zeros(n, int)), (-right_rows(n)[0], right_rows(n)[1])):
        calibrator = stream(batches)
        before = calibrator.temperature_
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # there is nothing to say
            calibrator.partial_fit(*odd)
        assert calibrator.temperature_ == pytest.approx(before, rel=0.15 if n > 1 else 0.01)
        fit = TemperatureScaling().fit(*together([*batches, odd]))
        assert calibrator.temperature_ == pytest.approx(fit.temperature_, rel=0.02)


@pytest.mark.parametrize(
    "first",
    [right_rows(60), (-right_rows(60)[0], right_rows(60)[1]), (np.zeros((60, 10)), np.arange(60) % 10)],
    ids=["separable", "inverted", "constant"],
)
def test_a_start_that_determines_nothing_says_so_and_gives_way(first):
    fit = pytest.warns(CalibrationDegenerateWarning)
    with fit:
        calibrator = TemperatureScaling().partial_fit(*first)
    with fit:
        assert calibrator.temperature_ == TemperatureScaling().fit(*first).temperature_
    with pytest.warns(CalibrationDegenerateWarning, match="the rows so far do not determine T; .* is half a guess"):
        calibrator.partial_fit(first[0][:30], first[1][:30])
    assert calibrator.at_bound_
    assert calibrator.interval() == (0.0, math.inf)
    batches = [draw(n=500, seed=seed) for seed in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches:
            calibrator.partial_fit(*batch)
    assert not calibrator.at_bound_
    fit_of_all = TemperatureScaling().fit(*together([first, (first[0][:30], first[1][:30]), *batches]))
    assert calibrator.temperature_ == pytest.approx(fit_of_all.temperature_, rel=0.1)
    assert calibrator.nll_before_ == pytest.approx(fit_of_all.nll_before_, rel=1e-12)


def test_a_first_batch_may_be_one_row():
    with pytest.warns(CalibrationDegenerateWarning):
        calibrator = TemperatureScaling().partial_fit([[1.0, 0.0, -1.0]], [0])
    assert calibrator.classes_.tolist() == [0, 1, 2]
    assert calibrator.absent_classes_.tolist() == [1, 2]
    with pytest.warns(CalibrationDegenerateWarning):
        calibrator.partial_fit([[1.0, 0.0, -1.0]], [2])
    assert calibrator.absent_classes_.tolist() == [1]


def test_minus_infinity_is_put_as_low_as_any_row_has_shown():
    (logits, labels), (more, more_labels) = draw(n=200, k=3), draw(n=200, k=3, seed=1)
    low = more.copy()
    low[np.arange(200), (more_labels + 1) % 3] = -np.inf
    calibrator = stream([(logits, labels), (low, more_labels)])
    assert calibrator.n_lifted_ == 200
    finite = np.where(np.isneginf(low), np.nan, low)
    drop = max(np.ptp(logits, axis=1).max(), (np.nanmax(finite, 1) - np.nanmin(finite, 1)).max())
    assert calibrator._drop == drop
    zeros = np.where(np.eye(3)[labels] == 1, 0.0, -np.inf)
    with pytest.warns((LiftedLogitsWarning, CalibrationDegenerateWarning)):
        calibrator = TemperatureScaling().partial_fit(zeros[:5], labels[:5])
    with pytest.warns((LiftedLogitsWarning, CalibrationDegenerateWarning)):
        calibrator.partial_fit(zeros[5:12], labels[5:12])
    assert calibrator._drop == pytest.approx(math.log(13))


def test_what_is_wrong_raises_and_changes_nothing():
    logits, labels = draw(n=300, k=3)
    calibrator = TemperatureScaling().fit(logits, labels).partial_fit(logits, labels)
    before = dict(vars(calibrator))
    nan = logits.copy()
    nan[4, 1] = np.nan
    for X, y, weights, sentence in (
        (logits[:, :2], labels, None, "X has 2 features, but TemperatureScaling is expecting 3 features as input"),
        (logits, labels + 1, None, "labels must lie in|labels.*3"),
        (nan, labels, None, "NaN"),
        (logits, labels[1:], None, "X and y must have the same length; got 300 rows and 299 labels"),
        (logits, labels, np.zeros(300), "sample_weight must not be zero for every row"),
        (logits[:0], labels[:0], None, "0 sample"),
        (logits * 1e305, labels, None, "beyond"),
        (logits, None, None, "requires y to be passed"),
    ):
        with pytest.raises(ValueError, match=sentence):
            calibrator.partial_fit(X, y, sample_weight=weights)
        assert vars(calibrator) == before
    with pytest.raises(ValueError, match="same length"):
        TemperatureScaling().partial_fit(logits, labels[1:])


def test_a_warning_that_is_made_an_error_changes_nothing_either():
    with pytest.warns(CalibrationDegenerateWarning):
        calibrator = TemperatureScaling().partial_fit(*right_rows(60))
    before = dict(vars(calibrator))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CalibrationDegenerateWarning):
            calibrator.partial_fit(*right_rows(10))
        fresh = TemperatureScaling()
        with pytest.raises(CalibrationDegenerateWarning):
            fresh.partial_fit(*right_rows(10))
    assert vars(calibrator) == before
    with pytest.raises(NotFittedError):
        fresh.interval()


def test_classes_as_scikit_learn_hands_them_over():
    logits, labels = draw(n=300, k=3)
    names = np.array(["a", "b", "c"])
    calibrator = TemperatureScaling(classes=names.tolist())
    calibrator.partial_fit(logits, names[labels], classes=names).partial_fit(logits, names[labels])
    assert calibrator.temperature_ == pytest.approx(TemperatureScaling().fit(logits, labels).temperature_, rel=1e-6)


# ---- files ----


@pytest.mark.parametrize("decay", [1, 0.9])
def test_a_stream_goes_on_after_a_restart_bit_for_bit(decay, tmp_path):
    batches = [draw(n=200, k=4, seed=seed) for seed in range(8)]
    whole = stream(batches, decay=decay)
    again = TemperatureScaling(decay=decay)
    for batch in batches:
        again.partial_fit(*batch)
        again.save(tmp_path / "c.json")
        again = sa.load(tmp_path / "c.json")
    assert again._stream == whole._stream
    assert again.interval() == whole.interval()
    for name, value in vars(whole).items():
        if name.endswith("_"):
            np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)


def test_files_without_a_stream_are_read_and_say_so(tmp_path):
    rows = draw(n=200)
    for calibrator, key, option in (
        (TemperatureScaling().fit(*rows), "stream", lambda c: c.partial_fit(*rows)),
        (PriorCorrection().fit(*rows), "counts", lambda c: c.update(rows[1])),
    ):
        calibrator.save(tmp_path / "c.json")
        document = json.loads((tmp_path / "c.json").read_text())
        del document["state"][key], document["params"]["decay"]
        (tmp_path / "c.json").write_text(json.dumps(document))
        again = sa.load(tmp_path / "c.json")
        assert again.decay == 1
        np.testing.assert_array_equal(again.predict_proba(rows[0]), calibrator.predict_proba(rows[0]))
        with pytest.raises(ValueError, match="was saved by a release that kept"):
            option(again)
        again.save(tmp_path / "again.json")
        assert json.loads((tmp_path / "again.json").read_text())["state"][key] is None
        option(again.fit(*rows))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("information", -1.0, "`stream` must be of finite numbers"),
        ("information2", "inf", "`stream` must be of finite numbers"),
        ("weight", 0.0, "`stream` must be of finite numbers"),
        ("rows", "nan", "`stream` must be of finite numbers"),
        ("log_t", 1e4, "`stream` must be of finite numbers"),
        ("is_settled", 1, "`is_settled` must be true or false"),
        ("more", 1, "it has keys that this release does not know: more"),
    ],
)
def test_a_stream_that_no_rows_can_have_made_is_refused(name, value, sentence, tmp_path):
    TemperatureScaling().fit(*draw(n=200)).save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    document["state"]["stream"][name] = value
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=sentence):
        sa.load(tmp_path / "c.json")


# ---- PriorCorrection.update ----


def law_updates_are_one_fit(method, weighted):
    """`update` with what came later gives the target prior of a fit to all at once."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((900, 4))
    labels = rng.choice(4, 900, p=[0.6, 0.3, 0.09, 0.01])
    labels[:300] = rng.integers(0, 2, 300)  # two classes have not come yet
    weights = rng.random(900) * 1e-2 if weighted else None
    calibrator = method().fit(logits[:300], labels[:300], None if weights is None else weights[:300])
    for end in (300, 301, 500, 900):
        rows = slice(0, end)
        if end > 300:
            part = slice(calibrator.seen, end)
            calibrator.update(labels[part], None if weights is None else weights[part])
        calibrator.seen = end
        fit = PriorCorrection().fit(logits[rows], labels[rows], None if weights is None else weights[rows])
        np.testing.assert_allclose(calibrator.target_prior_, fit.target_prior_, rtol=1e-12)
        np.testing.assert_array_equal(calibrator.absent_classes_, fit.absent_classes_)
        np.testing.assert_allclose(calibrator.predict_proba(logits), fit.predict_proba(logits), rtol=1e-11)


@pytest.mark.filterwarnings("ignore::softargmax.AbsentClassesWarning")
@pytest.mark.parametrize("weighted", [False, True])
def test_updates_are_one_fit(weighted):
    law_updates_are_one_fit(PriorCorrection, weighted)


class MeanOfShares(PriorCorrection):
    """Moves halfway to the shares of the new labels."""

    def update(self, y, sample_weight=None):
        new = np.bincount(y, weights=sample_weight, minlength=4)
        self.target_prior_ = (self.target_prior_ + new / new.sum()) / 2
        self.absent_classes_ = self.absent_classes_[~np.isin(self.absent_classes_, y)]
        return self


@pytest.mark.filterwarnings("ignore::softargmax.AbsentClassesWarning")
def test_the_law_of_updates_rejects():
    with pytest.raises(AssertionError):
        law_updates_are_one_fit(MeanOfShares, weighted=False)


def test_updates_with_decay_follow_the_labels():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((500, 3)), rng.choice(3, 500, p=[0.8, 0.1, 0.1])
    later = rng.choice(3, (60, 100), p=[0.1, 0.1, 0.8])
    calibrator = PriorCorrection(decay=0.9).fit(logits, labels)
    for batch in later:
        calibrator.update(batch)
    weights = np.concatenate([np.full(500, 0.9**60), np.repeat(0.9 ** np.arange(59, -1, -1.0), 100)])
    wanted = np.bincount(np.concatenate([labels, later.ravel()]), weights=weights)
    np.testing.assert_allclose(calibrator.target_prior_, wanted / wanted.sum(), rtol=1e-12)
    assert abs(calibrator.target_prior_[2] - 0.8) < 0.05


def test_counts_are_saved(tmp_path):
    logits, labels = draw(n=300, k=3)
    one = PriorCorrection(train_prior=[1, 2, 3], decay=0.7).fit(logits, labels).update([0, 0, 1])
    one.save(tmp_path / "c.json")
    other = sa.load(tmp_path / "c.json")
    np.testing.assert_array_equal(other.update([2, 2]).target_prior_, one.update([2, 2]).target_prior_)
    np.testing.assert_array_equal(other.predict_proba(logits), one.predict_proba(logits))
    document = json.loads((tmp_path / "c.json").read_text())
    for wrong in ([0.0, 0.0, 0.0], [1.0, -1.0, 2.0]):
        document["state"]["counts"]["of_class"] = wrong
        (tmp_path / "x.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match="`of_class` must be 0 or more, and not 0 for all classes"):
            sa.load(tmp_path / "x.json")


def test_updates_that_make_no_sense():
    logits, labels = draw(n=300, k=3)
    with pytest.raises(NotFittedError):
        PriorCorrection().update([0])
    with pytest.raises(ValueError, match="target_prior was given as shares; leave it None to count them"):
        PriorCorrection(target_prior=[1, 1, 1]).fit(logits, labels).update([0])
    named = PriorCorrection(classes=["a", "b", "c"]).fit(logits, np.array(["a", "b", "c"])[labels])
    before = named.target_prior_
    for y, weights, sentence in (
        (["a", "d"], None, "labels must be among classes; got 'd' at index 1"),
        ([], None, "y must have at least one label; got none"),
        (["a"], [0.0], "sample_weight must not be zero for every row"),
        (["a"], [1.0, 1.0], "sample_weight must have shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            named.update(y, weights)
    np.testing.assert_array_equal(named.target_prior_, before)
    torch = pytest.importorskip("torch")
    one, other = (PriorCorrection().fit(logits, labels).update(y) for y in (torch.tensor([2, 2, 0]), [2, 2, 0]))
    np.testing.assert_array_equal(one.target_prior_, other.target_prior_)


# ---- has it moved? ----


def share_moved(rates, looks, level=0.95):
    """How often temperatures (before, after) of so many rows are said to have moved; and by the naive comparison."""
    said = naive = 0
    for seed in range(looks):
        before, after = (TemperatureScaling().fit(*draw(t, n, 4, seed=2 * seed + i)) for i, (t, n) in enumerate(rates))
        said += temperature_drift(before, after, level).moved
        low, high = after.interval(level)
        naive += not low <= before.temperature_ <= high
    return said / looks, naive / looks


def test_false_alarms_are_one_in_twenty():
    said, naive = share_moved([(2.5, 500), (2.5, 500)], 400)
    assert 0.02 <= said <= 0.075  # 0.05 and two and a half standard errors
    assert naive > 0.11  # the new interval alone against the old T, which is uncertain too


def test_false_alarms_at_another_level():
    said, _ = share_moved([(1.0, 2000), (1.0, 300)], 300, level=0.8)
    assert 0.14 <= said <= 0.26


def test_a_change_of_a_fifth_is_seen_in_two_thousand_rows():
    for factor in (1.2, 1 / 1.2):
        said, _ = share_moved([(2.0, 2000), (2.0 * factor, 2000)], 100)
        assert said >= 0.9


def test_false_alarms_on_the_shipped_network():
    data = cifar10_resnet20()
    moved = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).permutation(10_000)
        one, other = (TemperatureScaling().fit(data.scores[i], data.labels[i]) for i in (rows[:5000], rows[5000:7000]))
        moved += temperature_drift(one, other).moved
    assert moved / 200 <= 0.09


def test_a_fading_stream_raises_no_more_alarms():
    moved = 0
    for seed in range(100):
        before = TemperatureScaling().fit(*draw(n=1000, k=4, seed=10_000 + seed))
        after = stream([draw(n=100, k=4, seed=100 * seed + i) for i in range(25)], decay=0.8)
        moved += temperature_drift(before, after).moved
    assert moved <= 11


def test_the_interval_is_that_of_the_ratio():
    before, after = TemperatureScaling().fit(*draw(2.0, 3000)), TemperatureScaling().fit(*draw(2.6, 1000, seed=1))
    drift = temperature_drift(before, after, 0.9)
    widths = [np.diff(np.log(each.interval(0.9)))[0] for each in (before, after)]
    assert np.diff(np.log(drift.interval))[0] == pytest.approx(math.hypot(*widths), rel=0.02)
    assert math.sqrt(math.prod(drift.interval)) == pytest.approx(after.temperature_ / before.temperature_, rel=1e-12)
    there = temperature_drift(after, before, 0.9)
    np.testing.assert_allclose(there.interval, 1 / np.array(drift.interval[::-1]), rtol=1e-12)
    assert (drift.moved, there.moved) == (True, True)
    assert str(drift).endswith("(90% interval): calibration has moved; the old T is too sure")
    assert str(there).endswith("calibration has moved; the old T is too unsure")
    same = temperature_drift(before, before)
    assert not same.moved
    assert str(same).endswith("(95% interval): no sign that calibration has moved")


def test_rows_that_determine_nothing_show_no_change():
    sound = TemperatureScaling().fit(*draw())
    for rows in (right_rows(60), (np.zeros((60, 10)), np.arange(60) % 10)):
        with pytest.warns(CalibrationDegenerateWarning):
            other = TemperatureScaling().fit(*rows)
        drift = temperature_drift(sound, other)
        assert drift.interval == (0.0, math.inf)
        assert not drift.moved
        assert str(drift).endswith("one of them rests on rows that do not determine it: no change can be seen")


def test_looks_that_make_no_sense():
    sound = TemperatureScaling().fit(*draw())
    with pytest.raises(NotFittedError):
        temperature_drift(sound, TemperatureScaling())
    for level in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got"):
            temperature_drift(sound, sound, level)
