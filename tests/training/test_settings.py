import dataclasses
import json
import math

import pytest

from softargmax.training import Settings


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "rnn"}, "model must be one of mlp, cnn; got 'rnn'"),
        ({"pooling": "mean"}, "pooling must be one of max, none; got 'mean'"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of adam, sgd; got 'lbfgs'"),
        ({"epochs": 0}, "epochs must be an integer from 1; got 0"),
        ({"epochs": 2.0}, "epochs must be an integer from 1; got 2.0"),
        ({"epochs": True}, "epochs must be an integer from 1; got True"),
        ({"batch_size": -1}, "batch_size must be an integer from 1; got -1"),
        ({"seed": -1}, "seed must be an integer from 0 to 2**63 - 1; got -1"),
        ({"seed": 1 << 63}, "seed must be an integer from 0"),
        ({"lr": 0.0}, "lr must be a number above 0; got 0.0"),
        ({"lr": math.inf}, "lr must be a number above 0; got inf"),
        ({"lr": math.nan}, "lr must be a number above 0; got nan"),
        ({"lr": True}, "lr must be a number above 0; got True"),
        ({"lr": 1e39}, "lr must be at most 1e+30; got 1e+39"),  # PyTorch cannot turn it into a float32
        ({"weight_decay": 1e39}, "weight_decay must be at most 1e+30; got 1e+39"),
        ({"momentum": 1.0}, "momentum must be a number in [0, 1); got 1.0"),
        ({"momentum": -0.1}, "momentum must be a number in [0, 1)"),
        ({"weight_decay": -1e-9}, "weight_decay must be a number from 0"),
        ({"weight_decay": math.inf}, "weight_decay must be a number from 0"),
        ({"label_smoothing": 1}, "label_smoothing must be a number in [0, 1)"),
        ({"dropout": 1.0}, "dropout must be a number in [0, 1)"),
        ({"dropout": math.nan}, "dropout must be a number in [0, 1)"),
        ({"model": "mlp"}, "the mlp has nothing to pool: pooling must be none; got 'max'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_a_sentence(given, sentence):
    with pytest.raises(ValueError) as caught:
        Settings("mnist", **given)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "lr", "momentum", "weight_decay", "dropout"])
@pytest.mark.parametrize("value", ["3", None, [1]], ids=str)
def test_what_is_no_number_is_refused_in_a_sentence(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Settings("mnist", **{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 1, "batch_size": 1, "seed": 0},
        {"seed": (1 << 63) - 1},
        {"lr": 1, "momentum": 0, "weight_decay": 0, "label_smoothing": 0, "dropout": 0},
        {"lr": 5e-324, "momentum": 0.999, "weight_decay": 10.0, "label_smoothing": 0.999, "dropout": 0.999},
        {"model": "mlp", "pooling": None},
    ],
    ids=str,
)
def test_the_ends_of_what_can_be_are_taken(given):
    settings = Settings("mnist", **given)
    assert {name: getattr(settings, name) for name in given} == given


def test_settings_do_not_change():
    settings = Settings("mnist")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 1.0
    assert settings.lr == 1e-3


def test_settings_pass_through_json():
    settings = Settings("mnist", pooling=None, lr=1 / 3, seed=(1 << 63) - 1)
    assert Settings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_names():
    assert Settings("mnist").name == "cnn with max pooling"
    assert Settings("mnist", pooling=None).name == "cnn without pooling"
    assert Settings("mnist", model="mlp", pooling=None).name == "mlp"


CHANGES = {
    "data": "fashion-mnist", "pooling": None, "epochs": 9, "batch_size": 9, "optimizer": "sgd", "lr": 0.9,
    "momentum": 0.5, "weight_decay": 0.9, "label_smoothing": 0.5, "dropout": 0.5, "seed": 9,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_that_differs_is_told(name):
    before = Settings("mnist")
    now = dataclasses.replace(before, **{name: CHANGES[name]})
    assert before.differences(now) == [f"{name}: {getattr(before, name)} before, {CHANGES[name]} now"]
    assert now.differences(now) == []


def test_all_that_differs_is_told():
    told = [sentence.partition(":")[0] for sentence in Settings("mnist").differences(Settings(model="mlp", **CHANGES))]
    assert told == [field.name for field in dataclasses.fields(Settings)]
