"""Checkpoints: all that the next epoch depends on is in them, whole or not at all."""

import hashlib
import json
import resource

import pytest
from safetensors.numpy import load

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from softargmax.models.networks import Mlp  # noqa: E402
from softargmax.training import Epoch, Inputs, Settings  # noqa: E402
from softargmax.training import checkpoint as checkpoint_module  # noqa: E402
from softargmax.training.checkpoint import State, read_checkpoint, write_checkpoint  # noqa: E402
from softargmax.training.loop import train  # noqa: E402
from tests.training.test_run import small_data  # noqa: E402

EPOCH = ("train_nll", "nll", "accuracy", "calibrated_nll", "temperature", "seconds")
OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_state(optimizer="adam", seed=0):
    torch.manual_seed(seed)
    network = Mlp((12, 12), 3, dropout=0.3)
    return State(network, OPTIMIZERS[optimizer](network.parameters()), [])


def trained(state, epochs):
    data = small_data()
    settings = Settings("small", model="mlp", pooling=None, epochs=epochs, batch_size=64)
    train(state, data.train, data.calibration, Inputs((12, 12), 70.0, 40.0, 60.0), settings)
    return state


def same(state, other):
    pairs = zip(state.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def forget_nothing(state):
    pass


def forget_the_optimizer(state):
    state.optimizer.state.clear()


def forget_the_random_numbers(state):
    torch.manual_seed(99)


def forget_the_epoch(state):
    state.history.pop()


def round_the_weights(state):
    with torch.no_grad():
        state.network.hidden.weight += 1e-6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_gone_on_with_ends_as_if_it_had_not_stopped(optimizer, tmp_path):
    whole = trained(new_state(optimizer), 4)
    write_checkpoint(tmp_path / "c", trained(new_state(optimizer), 2))
    again = new_state(optimizer, seed=7)
    read_checkpoint(tmp_path / "c", again)
    assert len(again.history) == 2
    assert same(trained(again, 4), whole)
    assert [epoch.nll for epoch in again.history] == [epoch.nll for epoch in whole.history]


@pytest.mark.parametrize(
    ("forget", "optimizer"),
    [
        (forget_the_optimizer, "adam"),
        (forget_the_optimizer, "momentum"),
        (forget_the_random_numbers, "sgd"),
        (forget_the_epoch, "sgd"),
        (round_the_weights, "sgd"),
    ],
)
def test_a_checkpoint_that_lacked_something_would_be_seen(forget, optimizer, tmp_path):
    """The test above rejects each of these broken ones."""
    whole = trained(new_state(optimizer), 4)
    write_checkpoint(tmp_path / "c", trained(new_state(optimizer), 2))
    again = new_state(optimizer, seed=7)
    read_checkpoint(tmp_path / "c", again)
    forget(again)
    assert not same(trained(again, 4), whole)


def test_without_a_checkpoint_the_state_is_as_it_was(tmp_path):
    state = new_state()
    read_checkpoint(tmp_path / "none", state)
    (tmp_path / "c").mkdir()
    read_checkpoint(tmp_path / "c", state)
    assert same(state, new_state())
    assert state.history == []


def test_reading_gives_the_same_numbers_to_the_last_digit(tmp_path):
    state = trained(new_state(), 1)
    state.history[:] = [Epoch(0.1, 1 / 3, 2 / 3, 5e-324, 1e300, 0.25)]
    write_checkpoint(tmp_path / "c", state)
    random, again = torch.get_rng_state(), new_state(seed=7)
    read_checkpoint(tmp_path / "c", again)
    assert again.history == state.history
    assert torch.equal(torch.get_rng_state(), random)
    assert same(again, state)
    before, after = (each.optimizer.state_dict()["state"] for each in (state, again))
    assert sorted(after) == sorted(before) == [0, 1, 2, 3]
    assert [set(each) for each in after.values()] == [{"step", "exp_avg", "exp_avg_sq"}] * 4
    assert all(torch.equal(after[index][key], before[index][key]) for index in before for key in before[index])


def test_the_newest_alone_is_kept_in_plain_files(tmp_path):
    state = new_state()
    for epochs in (1, 2):
        write_checkpoint(tmp_path / "c", trained(state, epochs))
    assert sorted(file.name for file in (tmp_path / "c").iterdir()) == ["checkpoint.json", "epoch-0002.safetensors"]
    content = (tmp_path / "c" / "epoch-0002.safetensors").read_bytes()
    index = json.loads((tmp_path / "c" / "checkpoint.json").read_text())
    assert (index["file"], index["sha256"]) == ("epoch-0002.safetensors", hashlib.sha256(content).hexdigest())
    assert (load(content)["network.hidden.weight"] == state.network.hidden.weight.detach().numpy()).all()


# ---- half of one, and damaged ones ----


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A folder whose second checkpoint was stopped between its two files -> the folder, the first state."""
    first = trained(new_state(), 1)
    write_checkpoint(tmp_path / "c", first)

    def stopped(path, content):
        if path.name == "checkpoint.json":
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_whole", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path / "c", trained(new_state(), 2))
    return tmp_path / "c", first


def test_between_its_two_files_the_checkpoint_before_is_the_newest(two):
    folder, first = two
    assert (folder / "epoch-0002.safetensors").exists()
    again = new_state(seed=7)
    read_checkpoint(folder, again)
    assert len(again.history) == 1
    assert same(again, first)
    write_checkpoint(folder, trained(again, 3))
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.json", "epoch-0003.safetensors"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    state, limits = trained(new_state(), 1), resource.getrlimit(resource.RLIMIT_FSIZE)
    write_checkpoint(tmp_path / "c", state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot write .*epoch-0002\.safetensors: file too large"):
            write_checkpoint(tmp_path / "c", trained(state, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = new_state(seed=7)
    read_checkpoint(tmp_path / "c", again)
    assert same(again, trained(new_state(), 1))


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(tmp_path / "c", trained(new_state(), 1))
    return tmp_path / "c"


def refused(folder):
    """The sentence; the state that was to be filled is as it was."""
    state = new_state()
    with pytest.raises(ValueError) as caught:
        read_checkpoint(folder, state)
    assert same(state, new_state())
    assert (state.history, "\n" in str(caught.value)) == ([], False)
    return str(caught.value)


@pytest.mark.parametrize("where", [0, 100, 5000, -1])
def test_tensors_of_which_a_bit_flipped_are_refused(where, folder):
    file = folder / "epoch-0001.safetensors"
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)
    assert refused(folder).startswith(
        f"{file} is damaged: its SHA-256 is not the one in {folder / 'checkpoint.json'}; "
    )


def test_tensors_that_were_cut_or_removed_are_refused(folder):
    file = folder / "epoch-0001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file} is damaged" in refused(folder)
    file.unlink()
    assert refused(folder) == f"{file} cannot be read: no such file or directory"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "'other'"),
        ({"file": None}, "its file is None, and of its history epoch-0001.safetensors"),
        ({"file": "\0"}, "its file is"),
        ({"history": []}, "its file is 'epoch-0001.safetensors', and of its history epoch-0000.safetensors"),
        ({"history": [{}]}, "history[0] has no train_nll"),
        ({"history": ["x"]}, "history[0] must be a JSON object; got 'x'"),
        ({"history": [dict.fromkeys(EPOCH, 1.0) | {"nll": "x"}]}, "history[0].nll must be a finite number; got 'x'"),
        ({"history": [dict.fromkeys(EPOCH, 1.0) | {"nll": float("nan")}]}, "history[0].nll must be a finite number"),
        ({"history": 3}, "history must be a list; got 3"),
    ],
    ids=str,
)
def test_an_index_that_this_release_does_not_know_is_refused(changes, said, folder):
    file = folder / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    sentence = refused(folder)
    assert sentence.startswith(f"{file} cannot be used: ")
    assert said in sentence


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", "\xff", "[" * 100_000])
def test_an_index_that_is_no_index_is_refused(text, folder):
    (folder / "checkpoint.json").write_text(text, encoding="latin-1")
    assert "checkpoint.json cannot be used: " in refused(folder)


def test_a_checkpoint_of_another_network_is_refused(folder):
    """Put there by hand: a run checks its settings first."""
    network = Mlp((8, 8), 3)
    with pytest.raises(ValueError, match="cannot be used"):
        read_checkpoint(folder, State(network, OPTIMIZERS["adam"](network.parameters()), []))
