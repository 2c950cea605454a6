"""coophash: learn short binary codes for images, and search billions of them exactly.

The names below are loaded on first use (PEP 562): `import coophash` needs neither torch nor a GPU
nor a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from coophash.errors import require

__version__ = "0.1.0"

# public name -> module that defines it
_NAMES = {
    "pack": "coophash.codes",
    "unpack": "coophash.codes",
    "HammingIndex": "coophash.search",
    "hamming_topk": "coophash.search",
    "hamming_range": "coophash.search",
    "hamming_distances": "coophash.search",
    "hamming_histogram": "coophash.search",
    "read_faiss": "coophash.store",
    "CoopHash": "coophash.coop",
    "SupervisedHash": "coophash.supervised",
    "UCCH": "coophash.ucch",
    "fit": "coophash.fitting",
    "load": "coophash.checkpoints",
    "langevin": "coophash.sampling",
}
# What needs more than the base install: name -> (module that tells, extra that brings it)
_NEEDS = dict.fromkeys(
    ("CoopHash", "SupervisedHash", "UCCH", "fit", "load", "langevin", "losses"),
    ("torch", "train"),
)
_MODULES = ("codes", "data", "kernels", "losses", "metrics", "protocols", "search")

# Written out, so that type checkers see it; a test holds it against the tables above.
__all__ = [
    "UCCH",
    "CoopHash",
    "HammingIndex",
    "SupervisedHash",
    "__version__",
    "codes",
    "data",
    "fit",
    "hamming_distances",
    "hamming_histogram",
    "hamming_range",
    "hamming_topk",
    "kernels",
    "langevin",
    "load",
    "losses",
    "metrics",
    "pack",
    "protocols",
    "read_faiss",
    "search",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDS:
        require(*_NEEDS[name], f"coophash.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"coophash.{name}")
    else:
        raise AttributeError(f"module 'coophash' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from coophash import codes, data, kernels, losses, metrics, protocols, search
    from coophash.checkpoints import load
    from coophash.codes import pack, unpack
    from coophash.coop import CoopHash
    from coophash.fitting import fit
    from coophash.sampling import langevin
    from coophash.search import (
        HammingIndex,
        hamming_distances,
        hamming_histogram,
        hamming_range,
        hamming_topk,
    )
    from coophash.store import read_faiss
    from coophash.supervised import SupervisedHash
    from coophash.ucch import UCCH
