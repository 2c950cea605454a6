"""faiss's functions for files of binary indexes, same names, on `coophash.HammingIndex`.

    from coophash.compat.faiss import read_index_binary, write_index_binary

Neither needs faiss. What is read and written: IndexBinaryFlat, and IndexBinaryIDMap or IDMap2 of
one. Differences from faiss:

| faiss | here |
|---|---|
| reads every kind of index | flat ones, which are exact; an error names any other |
| the same id may be given to several codes | ids differ, and are not negative |
| IDMap2 finds codes by id, IDMap does not | both are read alike, IDMap is written |
| an IDMap keeps ids that are 0, 1, 2 ... | these are written as a plain IndexBinaryFlat |
| `range_search` finds distance < radius | distance <= radius |
| ties in no promised order | by (distance, id) |
"""

from __future__ import annotations

import os

from coophash.search import HammingIndex
from coophash.store import read_faiss

__all__ = ["read_index_binary", "write_index_binary"]


def read_index_binary(path: str | os.PathLike[str]) -> HammingIndex:
    """Read a file that `faiss.write_index_binary` or `write_index_binary` wrote.

    Args:
        path: the file.

    Returns:
        An index of the same codes and ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds another kind of index, which the message names; it is damaged; or its
            ids repeat or are negative.
    """
    return read_faiss(path)


def write_index_binary(index: HammingIndex, path: str | os.PathLike[str]) -> None:
    """Write a file that `faiss.read_index_binary` reads.

    Args:
        index: what to write. Codes are padded with zero bits to whole bytes, as faiss wants them.
        path: the file; one that is there is replaced, in one step.

    Raises:
        TypeError: index is no HammingIndex.
    """
    if not isinstance(index, HammingIndex):
        theirs = ": faiss.write_index_binary writes it" if _of_faiss(index) else ""
        raise TypeError(
            f"index must be a coophash.HammingIndex, got {type(index).__name__}{theirs}"
        )
    index.write_faiss(path)


def _of_faiss(index: object) -> bool:
    return type(index).__module__.partition(".")[0] == "faiss"
