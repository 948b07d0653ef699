"""The loop against a bare one in PyTorch, and what it measures against NumPy and SciPy."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from softargmax.data import ImageSet  # noqa: E402
from softargmax.models.networks import Mlp  # noqa: E402
from softargmax.training import Inputs, Settings  # noqa: E402
from softargmax.training.checkpoint import State  # noqa: E402
from softargmax.training.loop import logits_of, scaled, train  # noqa: E402
from softargmax.training.start import _optimizer  # noqa: E402
from tests.training.test_run import small_data  # noqa: E402

INPUTS = Inputs((12, 12), mean=70.0, deviation=40.0, border_mean=60.0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings_of(**given):
    return Settings(
        **{"data": "small", "model": "mlp", "pooling": None, "epochs": 2, "batch_size": 32, "dropout": 0.3, **given}
    )


def state_of(settings, network=None):
    torch.manual_seed(settings.seed)
    network = network or Mlp((12, 12), 3, dropout=settings.dropout)
    return State(network, _optimizer(network, settings), [])


def trained(settings, network=None, data=None, **told):
    state, data = state_of(settings, network), data or small_data()
    train(state, data.train, data.calibration, INPUTS, settings, **told)
    return state


def bare_loop(optimizer, *, epochs=2, dropout=0.3, label_smoothing=0.0, seed=0):
    """The same training with nothing of ours but the order of the images -> weights, mean losses."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(144, 128),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(128, 3),
    )
    part, optimizer, means = small_data().train, optimizer(network.parameters()), []
    x, y = (torch.tensor(part.images)[:, None].float() - 70) / 40, torch.tensor(part.labels)
    for epoch in range(epochs):
        losses = []
        for batch in torch.tensor(np.random.default_rng((seed, epoch)).permutation(len(part))).split(32):
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch], label_smoothing=label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    return list(network.state_dict().values()), means


def largest_difference(tensors, others):
    return max(float((a - b).abs().max()) for a, b in zip(tensors, others, strict=True))


def sgd(momentum, lr=0.05, weight_decay=0.0):
    return lambda weights: torch.optim.SGD(weights, lr=lr, momentum=momentum, weight_decay=weight_decay)


def adam(weight_decay=0.0):
    return lambda weights: torch.optim.Adam(weights, lr=1e-3, weight_decay=weight_decay)


SGD = {"optimizer": "sgd", "lr": 0.05}


@pytest.mark.parametrize(
    ("given", "optimizer", "options"),
    [
        ({}, adam(), {}),
        ({"weight_decay": 0.1}, adam(0.1), {}),
        ({"dropout": 0.0, "label_smoothing": 0.2}, adam(), {"dropout": 0.0, "label_smoothing": 0.2}),
        ({**SGD}, sgd(0.9), {}),
        ({**SGD, "momentum": 0.0}, sgd(0.0), {}),
        ({**SGD, "momentum": 0.5, "weight_decay": 0.1}, sgd(0.5, weight_decay=0.1), {}),
        ({"seed": 3}, adam(), {"seed": 3}),
    ],
    ids=["adam", "weight decay", "smoothing", "momentum", "sgd", "all of sgd", "seed"],
)
def test_the_weights_are_those_of_a_bare_loop(given, optimizer, options):
    state = trained(settings_of(**given))
    weights, means = bare_loop(optimizer, **options)
    ours = list(state.network.state_dict().values())
    assert largest_difference(ours, weights) < 1e-5
    assert [epoch.train_nll for epoch in state.history] == pytest.approx(means, abs=1e-5)
    if given:  # a loop that forgot the setting would be seen
        assert largest_difference(ours, bare_loop(adam())[0]) > 1e-3


def test_an_epoch_is_measured_on_the_calibration_part():
    data = small_data()
    state = trained(settings_of(epochs=1), data=data)
    first = {name: tensor.numpy().astype(float) for name, tensor in state.network.state_dict().items()}
    x = (data.calibration.images.reshape(100, -1) - 70.0) / 40.0
    hidden = np.maximum(x @ first["hidden.weight"].T + first["hidden.bias"], 0)
    logits, rows = hidden @ first["output.weight"].T + first["output.bias"], np.arange(100)

    def nll(log_t):
        return -log_softmax(logits / math.exp(log_t), axis=1)[rows, data.calibration.labels].mean()

    best = minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    (epoch,) = state.history
    assert epoch.nll == pytest.approx(nll(0.0), abs=1e-5)
    assert epoch.accuracy == np.mean(logits.argmax(axis=1) == data.calibration.labels)
    assert epoch.calibrated_nll == pytest.approx(best.fun, abs=1e-5)
    assert epoch.temperature == pytest.approx(math.exp(best.x), rel=1e-3)
    assert epoch.seconds > 0


class Spy(torch.nn.Module):
    """A network that remembers which images it was trained on: every pixel of the k-th is k."""

    def __init__(self, loss_is_nan_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.batches, self.nan_at = [], loss_is_nan_at

    def forward(self, images):
        logits = self.weight.repeat(len(images), 1) + 1e-3 * images[:, 0, 0, :1]
        if not self.training:
            return logits
        self.batches.append((images[:, 0, 0, 0] * 40 + 70).round().int().tolist())
        return logits * math.nan if len(self.batches) == self.nan_at else logits


def numbered(n=100):
    images = np.arange(n, dtype=np.uint8)[:, None, None].repeat(12, 1).repeat(12, 2)
    part = ImageSet(images, np.arange(n) % 3)
    return type("Data", (), {"train": part, "calibration": part})


def joined(batches):
    return [image for batch in batches for image in batch]


@pytest.mark.filterwarnings("ignore:the logits are constant")
def test_every_epoch_takes_each_image_once_in_an_order_of_its_own():
    orders = {}
    for seed in (0, 1):
        spy = Spy()
        trained(settings_of(seed=seed), spy, numbered())
        assert [len(batch) for batch in spy.batches] == [32, 32, 32, 4] * 2
        for epoch in range(2):
            orders[seed, epoch] = joined(spy.batches[4 * epoch :][:4])
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    again = Spy()
    trained(settings_of(seed=0), again, numbered())
    assert joined(again.batches) == orders[0, 0] + orders[0, 1]


def test_batches_and_epochs_are_told():
    told = []
    trained(
        settings_of(batch_size=128),
        at_batch=lambda done, of: told.append((done, of)),
        at_epoch=lambda state: told.append(len(state.history)),
    )
    assert told == [(1, 3), (2, 3), (3, 3), 1, (1, 3), (2, 3), (3, 3), 2]


def test_a_state_after_its_last_epoch_is_left_alone():
    state = trained(settings_of())
    before, told = [tensor.clone() for tensor in state.network.state_dict().values()], []
    data = small_data()
    train(state, data.train, data.calibration, INPUTS, settings_of(), at_epoch=told.append)
    assert largest_difference(before, state.network.state_dict().values()) == 0
    assert told == []


@pytest.mark.filterwarnings("ignore:the logits are constant")
def test_a_loss_that_is_no_number_stops_before_the_step():
    spy, steps = Spy(loss_is_nan_at=7), []
    with pytest.raises(ValueError) as caught:
        trained(settings_of(lr=0.5), spy, numbered(), at_batch=lambda done, of: steps.append(done))
    assert str(caught.value).startswith("the loss is nan in epoch 2, batch 3 of 4: the steps are probably too large; ")
    assert "try a smaller learning rate than 0.5, such as 0.05" in str(caught.value)
    assert steps == [1, 2, 3, 4, 1, 2]
    assert torch.isfinite(spy.weight).all()


@pytest.mark.parametrize("lr", [1e4, 1e10, 1e30])
def test_steps_that_are_too_large_are_told(lr):
    with pytest.raises(ValueError, match="the loss is (nan|inf) in epoch 1, batch .* probably too large"):
        trained(settings_of(lr=lr, optimizer="sgd"))


def test_a_last_step_that_is_too_large_is_told_as_well():
    """The losses are finite, each before its step; the weights after the last one give no logits."""
    state = state_of(settings_of())
    state.optimizer.register_step_post_hook(lambda *_: state.network.output.bias.data.fill_(math.inf))
    data = small_data()
    with pytest.raises(ValueError, match="epoch 1, batch 1 of 1: the steps are probably too large; try a smaller"):
        train(state, data.train, data.calibration, INPUTS, settings_of(batch_size=300))
    assert state.history == []


def test_pixels_are_scaled_as_the_inputs_say():
    pixels = torch.tensor([[[0, 70], [110, 255]]], dtype=torch.uint8)
    found = scaled(pixels, INPUTS)
    assert (found.shape, found.dtype) == ((1, 1, 2, 2), torch.float32)
    assert found.flatten().tolist() == pytest.approx([-1.75, 0.0, 1.0, 4.625])


def test_logits_are_of_every_image_and_without_dropout():
    images = np.random.default_rng(0).integers(0, 256, (1201, 12, 12), np.uint8)
    images.flags.writeable = False
    network = state_of(settings_of()).network.train()
    found = logits_of(network, images, INPUTS)
    assert (found.shape, found.dtype) == ((1201, 3), np.float32)
    with torch.no_grad():
        whole = network.eval()(scaled(torch.tensor(images), INPUTS)).numpy()
    np.testing.assert_allclose(found, whole, atol=1e-5)
