"""What importing costs and what a missing extra says; each case in a process of its own."""

import subprocess
import sys

import pytest

import coophash as ch

HIDE = "import sys\nfor name in {hidden}: sys.modules[name] = None\n"


def run(code, hidden=()):
    program = HIDE.format(hidden=list(hidden)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_import_brings_nothing_heavy():
    heavy = ["torch", "triton", "matplotlib", "PIL", "scipy", "typer", "sklearn", "numpy"]
    done = run(f"import coophash, sys; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_searching_needs_numpy_alone():
    done = run(
        "import coophash as ch, numpy as np\n"
        "codes = ch.pack(np.random.default_rng(0).normal(size=(9, 20)))\n"
        "index = ch.HammingIndex(bits=20); index.add(codes)\n"
        "print(index.search(codes, 1)[1].ravel().tolist())\n"
        "ch.metrics.mean_average_precision(codes, codes, np.arange(9), np.arange(9))\n"
        "assert 'torch' not in sys.modules\n",
        hidden=["torch", "triton", "scipy", "PIL", "tqdm", "safetensors", "typer", "matplotlib"],
    )
    assert done.stdout.strip() == str(list(range(9))), done.stderr


@pytest.mark.parametrize(
    "name", ["CoopHash", "SupervisedHash", "UCCH", "fit", "load", "langevin", "losses"]
)
def test_a_missing_extra_says_the_one_command(name):
    done = run(f"import coophash as ch; ch.{name}", hidden=["torch"])
    assert done.returncode and 'pip install "coophash[train]"' in done.stderr, done.stderr


def test_training_runs_without_triton():
    done = run(
        "import torch, coophash as ch\n"
        "model = ch.CoopHash(8, 2, (1, 8, 8), base_channels=2, generator_channels=1)\n"
        "images = torch.zeros(4, 1, 8, 8)\n"
        "ch.fit(model, (images, torch.tensor([0, 0, 1, 1])), updates=1, progress=False)\n"
        "print(model.encode(images).shape)\n",
        hidden=["triton", "matplotlib", "typer", "mlxtend"],
    )
    assert "torch.Size([4, 1])" in done.stdout, done.stderr


@pytest.mark.parametrize("name", [name for name in ch.__all__ if name != "__version__"])
def test_every_public_name_is_there(name):
    assert getattr(ch, name) is not None
    assert name in dir(ch)


def test_the_written_list_is_the_tables():
    assert sorted(ch.__all__) == sorted({"__version__", *ch._NAMES, *ch._MODULES})


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Coophash'"):
        ch.Coophash  # noqa: B018


def test_kernels_is_ours_under_our_name_only():
    done = run("import coophash.kernels, importlib.util as u, os\nos.chdir('/')\n"
               "sys.path = [p for p in sys.path if p]\nprint(u.find_spec('kernels'))")  # fmt: skip
    assert done.stdout.strip() == "None", done.stdout + done.stderr
