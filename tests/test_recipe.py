"""Reading a recipe: what it stands for, and every kind of mistake named."""

from pathlib import Path

import pytest

from coophash.recipe import read_recipe

RECIPES = Path(__file__).parents[1] / "recipes"

GOOD = """
title = "Small"
[data]
name = "digits"
path = "digits"
image_size = 12
[protocol]
rule = "stratified"
query = 20
train = 40
validation = 10
classes = 3
image_size = 12
[train]
updates = 8
batch_size = 5
[grid]
methods = ["coophash", "csq", "csq-slow"]
bits = [8, 16]
seeds = [0, 3]
[methods.csq]
learning_rate = 3e-3
quantization_weight = 0.5
[methods.csq-slow]
method = "csq"
updates = 9
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        (tmp_path / "small.toml").write_text(text)
        return tmp_path / "small.toml"

    return make


def test_a_recipe_is_its_grid(write, tmp_path):
    recipe = read_recipe(write(GOOD))
    assert recipe.title == "Small" and len(recipe.runs) == 12
    assert recipe.data.path == tmp_path / "digits" and recipe.data.image_size == 12
    keys = [run.key for run in recipe.runs]
    assert keys[:4] == [
        "coophash-8-bits-seed-0", "csq-8-bits-seed-0", "csq-slow-8-bits-seed-0",
        "coophash-16-bits-seed-0",
    ]  # fmt: skip
    assert len(set(keys)) == 12 and keys[6].endswith("seed-3")
    coophash, csq, slow = recipe.runs[:3]
    assert coophash.training == {"updates": 8, "batch_size": 5} and coophash.options == {}
    assert csq.training == {"updates": 8, "batch_size": 5, "learning_rate": 3e-3}
    assert csq.options == {"quantization_weight": 0.5}
    assert slow.method == "csq" and slow.training["updates"] == 9 and slow.options == {}


def test_a_pattern_is_for_every_name_that_matches(write):
    text = GOOD + '[methods."csq*"]\nquantization_weight = 2.0\ncenters = "bernoulli"\n'
    coophash, csq, slow = read_recipe(write(text)).runs[:3]
    assert coophash.options == {}
    assert csq.options == {"quantization_weight": 0.5, "centers": "bernoulli"}, "the name wins"
    assert slow.options == {"quantization_weight": 2.0, "centers": "bernoulli"}
    with pytest.raises(ValueError, match=r"\[methods.dpsh\*\] is not in the methods"):
        read_recipe(write(GOOD + '[methods."dpsh*"]\nfeatures = 3\n'))


def test_each_seed_draws_its_own_split_unless_the_protocol_has_one(write):
    recipe = read_recipe(write(GOOD))
    assert {run.protocol.seed for run in recipe.runs} == {0, 3}
    fixed = read_recipe(write(GOOD.replace("query = 20", "query = 20\nseed = 7")))
    assert {run.protocol.seed for run in fixed.runs} == {7}


def test_evaluations_beside_retrieval(write):
    assert read_recipe(write(GOOD)).runs[0].evaluations == ()
    text = 'evaluate = ["unseen", "retrieval", "corruption"]\n' + GOOD
    assert read_recipe(write(text)).runs[-1].evaluations == ("corruption", "unseen")


def test_another_collection(write, tmp_path):
    other = 'evaluate = ["collection"]\n[other]\nname = "more"\npath = "m"\nchannels = 1\n[data]'
    recipe = read_recipe(write(GOOD.replace("[data]", other)))
    assert recipe.other is not None and recipe.other.path == tmp_path / "m"
    assert recipe.other.channels == 1 and recipe.data.name == "digits"
    assert all(run.other == recipe.other for run in recipe.runs)
    with pytest.raises(ValueError, match=r"\[other\] must have a 'name'"):
        read_recipe(write(GOOD.replace("[data]", other.replace('name = "more"\n', ""))))


def test_a_named_protocol_and_what_differs(write):
    text = GOOD[: GOOD.index("[protocol]")] + '[protocol]\nbase = "cifar10"\nvalidation = 50\n'
    protocol = read_recipe(write(text + GOOD[GOOD.index("[train]") :])).runs[0].protocol
    assert protocol.name == "cifar10" and protocol.query == 100 and protocol.validation == 50


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("[grid]", "[grid", "no valid TOML"),
        ('title = "Small"', 'evaluate = ["noise"]', "evaluate must be of retrieval, .*'noise'"),
        ('title = "Small"', 'evaluate = "recovery"', "evaluate must be a list of retrieval"),
        ("title", "name", "the file has no 'name'; it has data, evaluate, grid"),
        ('name = "digits"\n', "", r"\[data\] must have a 'name'"),
        ('name = "digits"', 'name = "mnist-5k"', "mnist-5k and uci-digits have none"),
        ('title = "Small"', 'evaluate = ["collection"]', r"a table \[other\] need each other"),
        ("[protocol]", '[other]\nname = "x"\n[protocol]', r"a table \[other\] need each other"),
        ("image_size = 12\n[protocol]", "size = 12\n[protocol]", r"\[data\] has no 'size'"),
        ('rule = "stratified"\n', "", r"\[protocol\] must have 'rule', or 'base'"),
        ('rule = "stratified"', 'base = "mnist-1"', "no protocol 'mnist-1' is known"),
        ("query = 20", "queries = 20", r"\[protocol\] has no 'queries'"),
        ("validation = 10", "validation = 41", "41 of 40"),
        ("updates = 8", "epochs = 8", r"\[train\] has no 'epochs'"),
        ("bits = [8, 16]\n", "", r"bits in \[grid\] must be a list"),
        ("bits = [8, 16]", "bits = [8, 8]", "has one twice"),
        ("bits = [8, 16]", "bits = [8.0]", "integers of at least 1, got 8.0"),
        ("seeds = [0, 3]", "seeds = [-1]", "integers of at least 0, got -1"),
        ('methods = ["coophash"', 'methods = ["../csq"', "letters, digits, - and _"),
        ('"csq-slow"]', '"lsh"]\n', "csq-slow] is not in the methods"),
        ('method = "csq"', 'method = "lsh"', "method must be one of coophash"),
        (
            "quantization_weight = 0.5",
            "langevin_steps = 5",
            "has no 'langevin_steps'; it has",
        ),
        ("[methods.csq]", "[method.csq]", "the file has no 'method'"),
    ],
)
def test_a_mistake_is_named(write, old, new, words):
    assert GOOD.count(old) >= 1
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=words) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_every_setting_of_fit_can_be_in_a_recipe():
    """All but what the runner itself decides."""
    import inspect

    from coophash.recipe import FIT_SETTINGS
    from coophash.training import fit

    own = {"model", "dataset", "validation", "seed", "folder", "resume", "time_limit", "progress"}
    assert set(inspect.signature(fit).parameters) - own == FIT_SETTINGS


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_coophash_reads(path):
    """And fits its data: the settings of every method are in range."""
    from coophash.data.known import KNOWN
    from coophash.methods import make_model

    recipe = read_recipe(path)
    assert len({run.seed for run in recipe.runs}) >= 3
    for run in recipe.runs[: len(recipe.runs) // len({run.seed for run in recipe.runs})]:
        shape = KNOWN[run.protocol.dataset].image_shape or (1, 28, 28)  # UCI's are of no protocol
        assert run.protocol.image_size == shape[1]
        make_model(run.method, run.bits, run.protocol.classes, shape, **run.options)
        counts = run.protocol.counts
        assert counts["train"] and counts["validation"]
    assert list(RECIPES.glob("*.toml"))
