"""Networks: their shapes, their layers redone in NumPy, their parameters counted by hand."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from softargmax.models.networks import Cnn, Mlp, parameters  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(n=3, size=(12, 12), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 1, *size)).astype(np.float32))


def seeded(kind, *arguments, **options):
    torch.manual_seed(0)
    return kind(*arguments, **options).eval()


def arrays(network):
    return {name: tensor.numpy().astype(np.float64) for name, tensor in network.state_dict().items()}


def linear(x, weights, layer):
    return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def convolved(x, weights, layer):
    """(N, C, H, W), borders padded with zeros."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,kcij->nkhw", windows, weights[f"{layer}.weight"]) + weights[f"{layer}.bias"][:, None, None]


def pooled(x):
    n, c, h, w = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))


@pytest.mark.parametrize(
    ("network", "by_hand"),
    [
        (lambda: Mlp((28, 28), 10), 784 * 128 + 128 + 128 * 10 + 10),
        (lambda: Mlp((12, 10), 3), 120 * 128 + 128 + 128 * 3 + 3),
        (lambda: Cnn((28, 28), 10), 9 * 32 + 32 + 9 * 32 * 64 + 64 + 64 * 7 * 7 * 128 + 128 + 128 * 10 + 10),
        (
            lambda: Cnn((28, 28), 10, pooling=None),
            9 * 32 + 32 + 9 * 32 * 64 + 64 + 64 * 28 * 28 * 128 + 128 + 128 * 10 + 10,
        ),
        (lambda: Cnn((13, 9), 2), 9 * 32 + 32 + 9 * 32 * 64 + 64 + 64 * 3 * 2 * 128 + 128 + 128 * 2 + 2),
    ],
    ids=["mlp", "small mlp", "cnn", "cnn without pooling", "odd cnn"],
)
def test_parameters_are_as_many_as_by_hand(network, by_hand):
    assert parameters(network()) == by_hand


def test_parameters_that_are_frozen_do_not_count():
    network = Mlp((2, 2), 3)
    network.hidden.weight.requires_grad_(False)
    assert parameters(network) == 128 + 128 * 3 + 3


def test_the_mlp_is_two_linear_layers_with_relu_between():
    network, x = seeded(Mlp, (12, 12), 5), images()
    weights = arrays(network)
    hidden = np.maximum(linear(x.numpy().reshape(3, -1), weights, "hidden"), 0)
    np.testing.assert_allclose(network(x).detach(), linear(hidden, weights, "output"), atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", None])
@pytest.mark.parametrize("size", [(12, 12), (13, 10)])
def test_the_cnn_is_two_convolutions_and_the_mlp(pooling, size):
    network, x = seeded(Cnn, size, 5, pooling=pooling), images(size=size)
    weights = arrays(network)
    pool = pooled if pooling else np.asarray
    first = pool(np.maximum(convolved(x.numpy(), weights, "first"), 0))
    second = pool(np.maximum(convolved(first, weights, "second"), 0))
    hidden = np.maximum(linear(second.reshape(3, -1), weights, "hidden"), 0)
    for found, wanted in zip(network.features(x), (first, second), strict=True):
        np.testing.assert_allclose(found.detach(), wanted, atol=1e-5)
    np.testing.assert_allclose(network(x).detach(), linear(hidden, weights, "output"), atol=1e-5)


def test_with_and_without_pooling_the_convolutions_are_the_same():
    with_pooling, without = seeded(Cnn, (12, 12), 3), seeded(Cnn, (12, 12), 3, pooling=None)
    for name in ("first.weight", "first.bias", "second.weight", "second.bias"):
        assert torch.equal(with_pooling.state_dict()[name], without.state_dict()[name])


@pytest.mark.parametrize("kind", [Mlp, Cnn])
def test_what_comes_out_are_logits(kind):
    """The output layer alone decides them: a softmax after it could give neither 5 nor -3."""
    network = seeded(kind, (8, 8), 2)
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.tensor([5.0, -3.0]))
        assert network(images(size=(8, 8))).tolist() == [[5.0, -3.0]] * 3


@pytest.mark.parametrize("kind", [Mlp, Cnn])
def test_dropout_is_for_training_alone(kind):
    network, x = seeded(kind, (8, 8), 4, dropout=0.5), images(size=(8, 8))
    assert torch.equal(network(x), network(x))
    assert torch.equal(network(x), seeded(kind, (8, 8), 4)(x))
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(("kind", "layers"), [(Mlp, ["output"]), (Cnn, ["hidden", "output"])])
def test_dropout_leaves_out_its_share_before_a_linear_layer(kind, layers):
    network, seen = seeded(kind, (8, 8), 1, dropout=0.3).train(), {}
    with torch.no_grad():  # all that linear layers see is 1, but for what is left out
        for layer in (network.second, network.hidden) if kind is Cnn else (network.hidden,):
            layer.weight.zero_()
            layer.bias.fill_(1)
    for name in layers:
        getattr(network, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    network(images(n=400, size=(8, 8)))
    for name in layers:
        assert seen[name].unique().tolist() == pytest.approx([0, 1 / 0.7])  # what is kept makes up for what is not
        assert float((seen[name] == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_the_room_is_entered_without_torch():
    code = "import softargmax.models, softargmax.training, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
