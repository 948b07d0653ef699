"""Run folders: what a training leaves, is read again, goes on, and refuses. Small images stand for the large ones."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from copy import deepcopy

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from softargmax.cli import main  # noqa: E402
from softargmax.data import ImageData, ImageSet  # noqa: E402
from softargmax.training import Settings, read_run  # noqa: E402
from softargmax.training import start as start_module  # noqa: E402
from softargmax.training.start import start  # noqa: E402

SIZES = {"train": 300, "calibration": 100, "test": 100}
FILES = ("calibrator.json", "examples.npz", "metrics.json", "test.npz", "weights.safetensors")


@functools.cache
def part(name, seed=0):
    """Noise of 12 x 12 pixels with a brighter patch where the class says; every seventh label is drawn anew."""
    rng = np.random.default_rng((seed, list(SIZES).index(name)))
    labels = rng.integers(0, 3, SIZES[name])
    images = rng.integers(0, 120, (SIZES[name], 12, 12)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2:5, 3 * label + 1 : 3 * label + 4] += 90
    labels = np.where(rng.random(len(labels)) < 1 / 7, rng.integers(0, 3, len(labels)), labels)
    return ImageSet(images, labels.astype(np.int64))


def small_data(name="small", *, data_dir=None, **seeds):
    """300 images to train on, 100 to calibrate on, 100 to test on; `test=1` has another test part."""
    parts = {each: part(each, seeds.get(each, 0)) for each in SIZES}
    digest = hashlib.sha256(b"".join(each.images.tobytes() for each in parts.values())).hexdigest()
    return ImageData(name, ("cat", "dog", "frog"), **parts, sha256=digest)


def settings_of(**given):
    return Settings(**{"data": "small", "model": "mlp", "pooling": None, "epochs": 3, "batch_size": 64, **given})


@pytest.fixture(autouse=True, scope="module")
def _small():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start_module, "read_images", small_data)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory, _small):
    """The folder of a finished run."""
    return start(tmp_path_factory.mktemp("mlp") / "run", settings_of()).folder


@pytest.fixture(scope="module")
def cnn(tmp_path_factory, _small):
    return start(tmp_path_factory.mktemp("cnn") / "run", settings_of(model="cnn", pooling="max", epochs=2)).folder


@pytest.fixture
def copy(mlp, tmp_path):
    """A copy of the finished run that may be damaged."""
    return shutil.copytree(mlp, tmp_path / "copy")


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def stop_after(batches):
    """An `at_batch` that presses Ctrl-C after so many batches."""
    left = iter(range(batches - 1))

    def at_batch(done, of):
        if next(left, None) is None:
            raise KeyboardInterrupt

    return at_batch


def interrupted(folder, batches, **given):
    run = start(folder, settings_of(**given), at_batch=stop_after(batches))
    assert run.status == "interrupted"
    return run


def is_one_sentence(error):
    return "\n" not in str(error) and len(str(error)) < 400


# ---- what is in it ----


def test_a_run_says_what_was_trained_on_what(mlp):
    run = read_run(mlp)
    assert (run.folder, run.status, run.settings) == (mlp, "complete", settings_of())
    assert (run.class_names, run.n_calibration) == (("cat", "dog", "frog"), 100)
    assert run.data_sha256 == small_data().sha256
    assert run.n_parameters == 144 * 128 + 128 + 128 * 3 + 3
    assert len(run.history) == 3
    assert run.seconds == pytest.approx(sum(epoch.seconds for epoch in run.history))
    pixels = part("train").images.astype(float)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], axis=1)
    assert run.inputs.size == (12, 12)
    assert (run.inputs.mean, run.inputs.deviation) == pytest.approx((pixels.mean(), pixels.std()))
    assert run.inputs.border_mean == pytest.approx(border.mean())


def test_a_folder_may_be_text_or_anything_like_a_path(mlp, tmp_path, monkeypatch):
    class Named:
        def __init__(self, name):
            self.name = name

        def __fspath__(self):
            return self.name

    asked = []
    monkeypatch.setattr(
        start_module,
        "read_images",
        lambda name, data_dir: asked.append(data_dir) or small_data(name, data_dir=data_dir),
    )
    for number, of in enumerate((str, Named)):
        assert read_run(of(str(mlp))).folder == mlp
        run = start(of(str(tmp_path / f"run{number}")), settings_of(), data_dir=of("somewhere"))
        assert (run.folder, weights(run.folder)) == (tmp_path / f"run{number}", weights(mlp))
        again = start(of(str(tmp_path / f"run{number}")), settings_of(), resume=True)
        assert again.folder == tmp_path / f"run{number}"
    assert asked == [start_module.Path("somewhere")] * 2


def test_it_learns(mlp):
    history = read_run(mlp).history
    assert history[-1].train_nll < history[0].train_nll
    assert history[-1].accuracy > 0.8  # chance is 0.33, and a label in ten is wrong


def logits_by_hand(run, images):
    with torch.no_grad():
        x = (torch.tensor(images)[:, None].double() - run.inputs.mean) / run.inputs.deviation
        return run.network().double()(x).numpy()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_test_part_is_in_it_as_the_network_sees_it(kind, request):
    run = read_run(request.getfixturevalue(kind))
    assert not run.network().training
    np.testing.assert_allclose(run.test.logits, logits_by_hand(run, part("test").images), atol=1e-4)
    np.testing.assert_array_equal(run.test.labels, part("test").labels)
    assert run.test.class_names == run.class_names


def test_the_calibrator_is_fitted_on_the_calibration_part_of_the_weights_that_are_kept(mlp):
    run = read_run(mlp)
    logits, labels = logits_by_hand(run, part("calibration").images), part("calibration").labels
    best = minimize_scalar(
        lambda t: -log_softmax(logits / np.exp(t), axis=1)[np.arange(100), labels].mean(), bounds=(-5, 5)
    )
    assert run.calibrator.temperature_ == pytest.approx(np.exp(best.x), rel=1e-3)
    assert run.history[-1].temperature == pytest.approx(run.calibrator.temperature_, rel=1e-5)


def test_the_metrics_are_of_the_test_part_before_and_after(mlp):
    run, metrics = read_run(mlp), json.loads((mlp / "metrics.json").read_text())
    for name, temperature in (("before", 1.0), ("after", run.calibrator.temperature_)):
        log_p = log_softmax(run.test.logits.astype(float) / temperature, axis=1)
        assert metrics[name]["nll"] == pytest.approx(-log_p[np.arange(100), run.test.labels].mean(), abs=1e-6)
        assert metrics[name]["accuracy"] == np.mean(log_p.argmax(axis=1) == run.test.labels)
    assert metrics["temperature"] == run.calibrator.temperature_
    low, high = metrics["temperature_interval"]
    assert low < metrics["temperature"] < high


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_examples_are_the_first_of_each_class_and_the_surest_mistakes(kind, request):
    run, labels = read_run(request.getfixturevalue(kind)), part("test").labels
    rows, log_p = run.examples.rows, log_softmax(run.test.logits / run.calibrator.temperature_, axis=1)
    assert rows[:3].tolist() == [labels.tolist().index(k) for k in range(3)]
    mistakes = sorted((-log_p[i].max(), i) for i in range(100) if log_p[i].argmax() != labels[i])
    assert rows[3:].tolist() == [i for _, i in mistakes[:12]]
    np.testing.assert_array_equal(run.examples.images, part("test").images[rows])


def test_examples_of_a_cnn_have_its_filters_and_maps(cnn, mlp):
    run = read_run(cnn)
    network = run.network()
    scaled = (torch.tensor(run.examples.images[:1])[:, None].float() - run.inputs.mean) / run.inputs.deviation
    with torch.no_grad():
        first, second = network.features(scaled)
    np.testing.assert_array_equal(run.examples.filters, network.first.weight[:, 0].detach())
    np.testing.assert_allclose(run.examples.first, first[0], atol=1e-5)
    np.testing.assert_allclose(run.examples.second, second[0], atol=1e-5)
    assert [read_run(mlp).examples.filters, read_run(mlp).examples.first] == [None, None]


def test_a_run_is_read_without_torch(mlp):
    program = """
        import sys
        from pathlib import Path
        from softargmax.training import read_run
        run = read_run(Path(sys.argv[1]))
        assert run.calibrator.predict_proba(run.test.logits).shape == (100, 3)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), mlp], check=True, timeout=60)


def test_no_file_is_a_pickle(mlp):
    for name, content in contents(mlp).items():
        assert name.suffix in (".json", ".npz", ".safetensors")
        assert b"\x80\x04" not in content[:2]
        if name.suffix == ".npz":
            with np.load(mlp / name, allow_pickle=False) as arrays:
                assert all(array.dtype.kind != "O" for array in arrays.values())


# ---- what decides the weights ----


def trained_on(patch, folder, settings, **seeds):
    with patch.context() as inner:
        inner.setattr(start_module, "read_images", functools.partial(small_data, **seeds))
        return start(folder, settings).folder


def test_training_and_calibration_do_not_see_the_test_part(mlp, tmp_path, monkeypatch):
    other = trained_on(monkeypatch, tmp_path / "a", settings_of(), test=1)
    assert contents(other)[(other / "test.npz").relative_to(other)] != (mlp / "test.npz").read_bytes()
    for name in ("weights.safetensors", "calibrator.json"):
        assert (other / name).read_bytes() == (mlp / name).read_bytes()
    assert [dataclasses.replace(e, seconds=0) for e in read_run(other).history] == [
        dataclasses.replace(e, seconds=0) for e in read_run(mlp).history
    ]


def test_training_does_not_see_the_calibration_part(mlp, tmp_path, monkeypatch):
    other = trained_on(monkeypatch, tmp_path / "a", settings_of(), calibration=1)
    assert weights(other) == weights(mlp)
    assert (other / "calibrator.json").read_bytes() != (mlp / "calibrator.json").read_bytes()
    assert weights(trained_on(monkeypatch, tmp_path / "b", settings_of(), train=1)) != weights(mlp)


def test_same_seed_same_weights(mlp, tmp_path):
    torch.rand(5)  # whatever was drawn before
    assert weights(start(tmp_path / "same", settings_of()).folder) == weights(mlp)
    assert weights(start(tmp_path / "other", settings_of(seed=1)).folder) != weights(mlp)


# ---- stopped and gone on with ----


@pytest.mark.filterwarnings("ignore::softargmax._checks.CalibrationDegenerateWarning")
@pytest.mark.parametrize("batches", [1, 5, 7, 10, 15], ids="after batch {}".format)
def test_ctrl_c_leaves_a_run_that_can_be_used_and_gone_on_with(batches, mlp, tmp_path):
    run = interrupted(tmp_path / "run", batches)
    assert len(run.history) == (batches - 1) // 5  # the epoch is measured after its last batch
    np.testing.assert_allclose(run.test.logits, logits_by_hand(run, part("test").images), atol=1e-4)
    assert run.calibrator.predict_proba(run.test.logits).shape == (100, 3)
    epochs = []
    done = start(tmp_path / "run", settings_of(), resume=True, at_epoch=lambda history: epochs.append(len(history)))
    assert epochs == [1, 2, 3][(batches - 1) // 5 :]
    assert done.status == "complete"
    assert weights(done.folder) == weights(mlp)


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "sgd", "lr": 0.05},
        {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0},
        {"model": "cnn", "pooling": None, "epochs": 2},
        {"weight_decay": 0.01, "label_smoothing": 0.1, "seed": 5},
    ],
    ids=["momentum", "sgd", "cnn", "adam with everything"],
)
def test_gone_on_with_is_the_same_for_every_optimizer_and_network(given, tmp_path):
    whole = start(tmp_path / "whole", settings_of(**given))
    interrupted(tmp_path / "run", 8, **given)
    assert weights(start(tmp_path / "run", settings_of(**given), resume=True).folder) == weights(whole.folder)


def test_a_second_ctrl_c_leaves_a_run_that_is_half_written_and_can_be_gone_on_with(mlp, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(start_module, "metrics", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run", settings_of(), at_batch=stop_after(8))
    with pytest.raises(ValueError, match="run is half written: training was stopped before its end; go on with"):
        read_run(tmp_path / "run")
    assert weights(start(tmp_path / "run", settings_of(), resume=True).folder) == weights(mlp)


def test_a_finished_run_is_not_trained_again(copy):
    before = contents(copy)

    def never(*_):
        raise AssertionError

    run = start(copy, settings_of(), resume=True, at_batch=never, at_epoch=never)
    assert run.status == "complete"
    assert contents(copy) == before


def test_a_resume_without_checkpoints_starts_at_the_beginning(mlp, tmp_path):
    interrupted(tmp_path / "run", 8)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert weights(start(tmp_path / "run", settings_of(), resume=True).folder) == weights(mlp)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": 0.01}, "(lr: 0.001 before, 0.01 now)"),
        ({"epochs": 4, "seed": 1}, "(epochs: 3 before, 4 now; seed: 0 before, 1 now)"),
        ({"model": "cnn", "pooling": "max"}, "(model: mlp before, cnn now; pooling: None before, max now)"),
        ({"data": "mnist"}, "(data: small before, mnist now)"),
    ],
    ids=str,
)
def test_a_resume_with_other_settings_says_what_differs(given, said, copy):
    before = contents(copy)
    with pytest.raises(ValueError) as caught:
        start(copy, settings_of(**given), resume=True)
    assert said in str(caught.value)
    assert str(copy) in str(caught.value)
    assert is_one_sentence(caught.value)
    assert contents(copy) == before


def test_a_resume_with_other_images_is_refused(tmp_path, monkeypatch):
    interrupted(tmp_path / "run", 8)
    before = contents(tmp_path / "run")
    monkeypatch.setattr(start_module, "read_images", functools.partial(small_data, train=1))
    with pytest.raises(ValueError, match="the images of small are not those that .*run was trained on"):
        start(tmp_path / "run", settings_of(), resume=True)
    assert contents(tmp_path / "run") == before


def test_a_folder_that_is_taken_is_refused(copy, tmp_path):
    before = contents(copy)
    with pytest.raises(ValueError, match="copy is a run already; go on with it by --resume, or give another name"):
        start(copy, settings_of())
    assert contents(copy) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "film.part").touch()  # half a file, but not half of ours
    for taken in (tmp_path / "mine", tmp_path / "mine" / "letter.txt", tmp_path / "theirs"):
        with pytest.raises(ValueError, match="is there already; give the name of a new folder"):
            start(taken, settings_of())
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]
    assert os.listdir(tmp_path / "theirs") == ["film.part"]


def test_an_empty_folder_and_a_deep_one_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b" / "run"):
        assert start(folder, settings_of(epochs=1)).status == "complete"


@pytest.mark.parametrize("read", [read_run, lambda folder: start(folder, settings_of(), resume=True)])
def test_what_is_no_run_is_told(read, tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*none; softargmax train writes one"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"is not a run: it has no run\.json"):
        read(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_damaged_file_is_named(name, how, copy):
    file = copy / name
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is damaged: its SHA-256|cannot be read: no such file)") as caught:
        read_run(copy)
    assert is_one_sentence(caught.value)


def test_damaged_weights_of_an_interrupted_run_are_made_again(mlp, tmp_path):
    interrupted(tmp_path / "run", 8)
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        read_run(tmp_path / "run")
    assert weights(start(tmp_path / "run", settings_of(), resume=True).folder) == weights(mlp)


def rewritten(folder, **changes):
    index = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**index, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "it has version 2 and this release reads 1: update softargmax"),
        ({"format": "other"}, "its format is 'other'"),
        ({"version": "1"}, "version '1'"),
        ({"status": "done"}, "status 'done'"),
        ({"settings": dataclasses.asdict(settings_of()) | {"temperature": 3}}, "settings has 'temperature', which"),
        ({"settings": dataclasses.asdict(settings_of()) | {"epochs": 0}}, "epochs must be an integer from 1; got 0"),
        ({"settings": {"data": "small"}}, "settings has no model, pooling, epochs"),  # no default passes for it
        ({"inputs": {}}, "inputs has no size, mean"),
        ({"history": [{}]}, "history[0] has no train_nll, nll"),
        ({"history": ["x"]}, "history[0] must be a JSON object; got 'x'"),
        ({"class_names": None}, "class_names must be a list; got None"),
        ({"class_names": ["cat", 2, "frog"]}, "class_names[1] must be text; got 2"),
        ({"files": []}, "files must be a JSON object; got []"),
    ],
    ids=str,
)
def test_an_index_that_this_release_does_not_know_is_told(changes, said, copy):
    rewritten(copy, **changes)
    for read in (read_run, lambda folder: start(folder, settings_of(), resume=True)):
        with pytest.raises(ValueError) as caught:
            read(copy)
        assert str(caught.value).startswith(f"{copy / 'run.json'} cannot be read: ")
        assert said in str(caught.value)
        assert is_one_sentence(caught.value)


WRONG = (None, True, "x", 7, 0.5, math.nan, math.inf, 10**400, [], ["x"], {}, {"x": 1})


def may_stand_for(wrong, held):
    """Whether a value is of the same kind as another; an integer is a number as well."""
    if wrong in (math.inf, 10**400) or wrong != wrong:
        return False
    return type(wrong) is type(held) or (type(wrong), type(held)) == (int, float)


def fields_of(part, path=()):
    """The path of every field of a JSON document, at every depth."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from fields_of(value, (*path, key))


def mutations(index):
    """(path, index with that field of another kind or gone), for every field of `index`."""
    for path in fields_of(index):
        *above, last = path
        held = functools.reduce(lambda part, key: part[key], path, index)
        for wrong in WRONG:
            if may_stand_for(wrong, held) or (last, wrong) == ("pooling", None):
                continue
            other = deepcopy(index)
            functools.reduce(lambda part, key: part[key], above, other)[last] = wrong
            yield path, other
        other = deepcopy(index)
        del functools.reduce(lambda part, key: part[key], above, other)[last]
        if above != ["history"]:  # one epoch fewer is a history as well
            yield path, other


def test_every_field_of_an_index_is_checked(cnn, tmp_path):
    """Of another kind, NaN, infinite, too large, or gone: a sentence with the file and the field."""
    folder = shutil.copytree(cnn, tmp_path / "run")
    index = json.loads((folder / "run.json").read_text())
    seen = 0
    for path, other in mutations(index):
        (folder / "run.json").write_text(json.dumps(other))
        try:
            read_run(folder)
        except ValueError as error:
            said = str(error)
        else:
            pytest.fail(f"{path} is not checked: {other}")
        assert said.startswith(f"{folder / 'run.json'} cannot be read: ")
        assert str(path[0]) in said
        assert is_one_sentence(said)
        seen += 1
    assert seen > 400


INPUTS = {"size": [12, 12], "mean": 1.0, "deviation": 2.0, "border_mean": 3.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ["cat", "dog"]}, "class_names: 2 here, 3 in test.npz"),
        ({"class_names": []}, "class_names: 0 here, 3 in test.npz"),
        ({"inputs": {"size": [12, 13], "mean": 1, "deviation": 2, "border_mean": 3}}, "inputs.size: (12, 13) here"),
        (
            {"inputs": {"size": [12], "mean": 1, "deviation": 2, "border_mean": 3}},
            "inputs.size must be [height, width]",
        ),
        ({"inputs": {"size": [12, 12], "mean": 1, "deviation": 0, "border_mean": 3}}, "inputs.deviation must be above"),
        ({"version": True}, "version True is none"),
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_the_other_files_is_told(changes, said, copy):
    rewritten(copy, **changes)
    with pytest.raises(ValueError) as caught:
        read_run(copy)
    assert str(caught.value).startswith(f"{copy / 'run.json'} cannot be read: {said}")


@pytest.mark.parametrize("change", [{"model": "mlp", "pooling": None}, {"pooling": None}], ids=str)
def test_an_index_that_names_another_network_is_told(change, cnn, tmp_path):
    folder = shutil.copytree(cnn, tmp_path / "run")
    settings = json.loads((folder / "run.json").read_text())["settings"]
    rewritten(folder, settings=settings | change)
    with pytest.raises(ValueError, match=r"run\.json cannot be used: settings\.model .* is of another network"):
        read_run(folder).network()


@pytest.mark.parametrize("words", [["predict", "{run}", "x.png"], ["report", "{run}", "-o", "x.html"]], ids=str)
@pytest.mark.parametrize(
    ("field", "value"), [("class_names", [1, 2, 3]), ("history", ["x"]), ("inputs", {"size": "x"}), ("settings", None)]
)
def test_an_index_edited_by_hand_ends_a_command_with_a_sentence(words, field, value, copy, capsys):
    rewritten(copy, **{field: value})
    assert main([word.format(run=copy) for word in words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"softargmax: error: {copy / 'run.json'} cannot be read: {field}")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"run"', "\xff", "[" * 100_000])
def test_an_index_that_is_no_index_is_told(text, copy):
    (copy / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.json cannot be read: "):
        read_run(copy)


def test_a_whole_run_names_all_of_its_files(copy):
    index = json.loads((copy / "run.json").read_text())
    assert sorted(index["files"]) == sorted(FILES)
    rewritten(copy, files={})
    (copy / "examples.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"run\.json cannot be read: "):
        read_run(copy)


@pytest.mark.parametrize("size", [100, 20_000, 150_000], ids="{} bytes".format)
def test_a_full_disk_is_told_and_the_run_goes_on_later(size, mlp, tmp_path):
    """Files may not grow beyond `size`: not one, the index alone, all but those of tensors."""
    folder, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(ValueError, match="cannot write .*: file too large; nothing was changed there") as caught:
            start(folder, settings_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_one_sentence(caught.value)
    assert not list(folder.rglob("*.part"))
    if (folder / "run.json").exists():
        with pytest.raises(ValueError, match="half written"):
            read_run(folder)
    assert weights(start(folder, settings_of(), resume=(folder / "run.json").exists()).folder) == weights(mlp)


def test_a_full_disk_at_the_very_end(mlp, copy):
    """The checkpoints are there, the weights cannot be written: the run is half written, and nothing is lost."""
    rewritten(copy, status="training", files={})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot write .*weights\.safetensors: file too large"):
            start(copy, settings_of(), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(ValueError, match="half written"):
        read_run(copy)

    def never(*_):
        raise AssertionError

    assert weights(start(copy, settings_of(), resume=True, at_batch=never).folder) == weights(mlp)


def test_a_folder_that_cannot_be_made_is_told_before_training():
    def never(*_):
        raise AssertionError

    with pytest.raises((ValueError, OSError), match=r"/proc/run") as caught:
        start(start_module.Path("/proc/run"), settings_of(), at_batch=never)
    assert is_one_sentence(caught.value)


def test_a_run_that_may_not_be_written_is_told_before_training(tmp_path, monkeypatch):
    interrupted(tmp_path / "run", 8)
    before = contents(tmp_path / "run")

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(ValueError, match=r"cannot write .*run\.json: it is read-only; nothing was changed there"):
        start(tmp_path / "run", settings_of(), resume=True, at_batch=never)
    assert contents(tmp_path / "run") == before
