"""Methods by name."""

import pytest

import coophash as ch
from coophash import supervised
from coophash.methods import METHODS, make_model, option_names

SHAPE = (1, 12, 12)
SUPERVISED = supervised.METHODS


def test_the_methods_are_those_that_the_text_lists():
    assert METHODS == (
        "coophash", "coophash-without-generator", "coophash-without-energy",
        "coophash-without-langevin", "coophash-without-inference", "coophash-without-category",
        "plain", "dpsh", "dtsh", "hashnet", "greedyhash", "csq", "orthohash",
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_model_with_its_options(method):
    model = make_model(method, 12, 3, SHAPE, ("a", "b", "c"), 2, base_channels=4, features=8)
    kind = ch.SupervisedHash if method in SUPERVISED else ch.CoopHash
    assert type(model) is kind and model.config.features == 8
    assert model.class_names == ("a", "b", "c")
    assert {"base_channels", "features", "gradient_clip"} <= set(option_names(method))
    assert not {"bits", "method", "without", "cooperative"} & set(option_names(method))
    again = make_model(method, 12, 3, SHAPE, None, 2, base_channels=4, features=8)
    for name, value in model.state_dict().items():
        assert (again.state_dict()[name] == value).all(), name


def test_names_stand_for_their_settings():
    assert make_model("coophash-without-energy", 8, 3, SHAPE).config.without == "energy"
    assert not make_model("plain", 8, 3, SHAPE).config.cooperative
    assert make_model("coophash", 8, 3, SHAPE, margin=0.25).config.margin == 0.25


@pytest.mark.parametrize(
    "method, options, words",
    [
        ("lsh", {}, "method must be one of coophash, "),
        ("plain", {"cooperative": True}, "plain has no option 'cooperative'"),
        ("csq", {"langevin_steps": 3}, "csq has no option 'langevin_steps'; it has base_channels"),
        ("csq", {"margin": 3.0}, "csq has no option 'margin'; it has base_channels"),
        ("coophash", {"scale": 3.0}, "coophash has no option 'scale'"),
    ],
)
def test_what_does_not_fit_is_named(method, options, words):
    with pytest.raises(ValueError, match=words):
        make_model(method, 8, 3, SHAPE, **options)
