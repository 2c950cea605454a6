"""Models and training state on disk: safetensors and JSON, no pickles, replaced in one rename.

A model folder holds `config.json` (what the model is) and `model.safetensors` (its weights). A
training run keeps `checkpoint.safetensors` beside them: weights, optimiser state and the history so
far, everything that a resumed run needs but the data, of which it has a digest. `coophash train`
adds `learned.npy`, fingerprints of the training images: `coophash.commands.learned`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coophash.errors import require

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CHECKPOINT_FILE = "checkpoint.safetensors"

# Models that a folder can hold: name -> (module, attributes that are kept beside the config)
_MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CoopHash": ("coophash.coop", ("class_names", "multi_label")),
    "SupervisedHash": ("coophash.supervised", ("class_names",)),
    "UCCH": ("coophash.ucch", ("preset", "sources")),
}


def _safetensors() -> Any:
    return require("safetensors.torch", "train", "saving and loading models")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one rename: at any kill it is the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def model_description(model: Any) -> dict[str, Any]:
    """What `config.json` says of a model."""
    from coophash import __version__

    # A subclass is kept as the model it is made of: nobody but its author could load it.
    name = next(base.__name__ for base in type(model).__mro__ if base.__name__ in _MODELS)
    return {
        "model": name,
        "coophash": __version__,
        "config": dataclasses.asdict(model.config),
        **{kept: getattr(model, kept) for kept in _MODELS[name][1]},
    }


def save_model(model: Any, folder: str | Path) -> None:
    """Write a model folder. An existing one is overwritten, file by file, each atomically.

    Raises:
        NotADirectoryError: the folder's name is taken by a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"model folder {str(folder)!r} is a file: give another name")
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    write_atomically(folder / MODEL_FILE, _safetensors().save(tensors))
    description = json.dumps(model_description(model), indent=2) + "\n"
    write_atomically(folder / CONFIG_FILE, description.encode())


def load(folder: str | Path) -> Any:
    """Read a model folder that `model.save` wrote.

    Returns:
        The `CoopHash`, `SupervisedHash` or `UCCH` that was saved, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged, or the two do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder at {str(folder)!r}: train one, or give its path")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"model folder {str(folder)!r} has no {CONFIG_FILE}: it is no model folder, or its "
            "training was stopped before the first save"
        )
    model = build_model(_read_description(path), path)
    load_weights(model, folder / MODEL_FILE)
    return model.eval()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged (no valid JSON: {error}): restore it") from None
    if not isinstance(description, dict) or not isinstance(description.get("config"), dict):
        raise ValueError(f"{path} is damaged: it has no 'config' table")
    return description


def build_model(description: dict[str, Any], path: Path) -> Any:
    """The model that a description stands for, with fresh weights. `path`: named in errors."""
    name = description.get("model")
    if name not in _MODELS:
        raise ValueError(
            f"{path} describes a model {name!r}; this version of coophash knows "
            f"{', '.join(map(repr, _MODELS))}"
        )
    module, kept = _MODELS[name]
    config = dict(description["config"])
    if config.get("backbone_weights") is not None:  # the folder has the backbone's weights now
        config["backbone_weights"] = None
    beside = {key: description[key] for key in kept if key in description}
    for key, value in beside.items():
        beside[key] = tuple(value) if isinstance(value, list) else value
    try:
        return getattr(importlib.import_module(module), name)(**config, **beside)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file, every tensor or none."""
    fill_weights(model, read_tensors(path)[0], path)


def fill_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Fill a model from tensors, every one or none. `path`: where they came from, for errors."""
    expected = model.state_dict()
    if missing := sorted(set(expected) - set(tensors)):
        raise ValueError(f"{path} is damaged: {len(missing)} tensors missing, {missing[0]!r} first")
    if extra := sorted(set(tensors) - set(expected)):
        raise ValueError(f"{path} does not fit its config: unexpected tensor {extra[0]!r}")
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise ValueError(
                f"{path} does not fit its config: {name!r} is {tuple(tensors[name].shape)}, "
                f"expected {tuple(value.shape)}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{path} is damaged: {name!r} holds NaN or infinity")
    model.load_state_dict(tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the folder is incomplete, restore or retrain")
    safetensors = require("safetensors", "train", "saving and loading models")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it or train again") from None


def save_training(
    path: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    extra: dict[str, Tensor],
    facts: dict[str, Any],
) -> None:
    """Everything that a resumed run needs, in one safetensors file.

    facts: JSON-able; kept in the file's metadata, so that tensors and facts cannot disagree.
    """
    tensors: dict[str, Tensor] = dict(extra)
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{number}/{key}": value for key, value in state.items()}
    tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    content = _safetensors().save(tensors, metadata={"facts": json.dumps(facts)})
    write_atomically(path, content)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a training checkpoint; its tensors are not read.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the folder is incomplete, restore or retrain")
    safetensors = require("safetensors", "train", "saving and loading models")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return _facts(dict(file.metadata() or {}), path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it or train again") from None


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(metadata["facts"])
    except (KeyError, ValueError):
        raise ValueError(f"{path} is no training checkpoint: remove it and train again") from None
    return facts


def load_training(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Undo `save_training`: fills modules and optimisers, returns (extra, facts)."""
    tensors, metadata = read_tensors(path)
    facts = _facts(metadata, path)

    def take(prefix: str) -> dict[str, Tensor]:
        names = [name for name in tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): tensors.pop(name) for name in names}

    for name, module in modules.items():
        fill_weights(module, take(f"{name}/"), path)
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in take(f"{name}/").items():
            number, _, field = key.partition("/")
            state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return tensors, facts
