"""Search packed codes with NumPy alone: an index, a filter, a range, a folder on disk.

python examples/search_codes.py
"""

import tempfile

import numpy as np

import coophash as ch

rng = np.random.default_rng(0)
database = ch.pack(rng.normal(size=(100_000, 64)))  # (100000, 8) uint8
queries = database[:3].copy()
queries[:, 0] ^= 0b101  # two bits away from rows 0, 1 and 2

index = ch.HammingIndex(bits=64)
index.add(database)
distances, ids = index.search(queries, k=3)
print(index)
print("nearest:", ids[:, 0].tolist(), "at distance", distances[:, 0].tolist())

even = np.arange(len(database)) % 2 == 0
print("among even rows:", index.search(queries, k=1, allow=even)[1].ravel().tolist())

limits, distances, ids = index.range_search(queries, radius=15)
print("within 15 bits:", np.diff(limits).tolist(), "codes each")

with tempfile.TemporaryDirectory() as folder:
    index.save(f"{folder}/codes.index")
    reopened = ch.HammingIndex.open(f"{folder}/codes.index", mmap=True)
    assert np.array_equal(reopened.search(queries, k=3)[1], index.search(queries, k=3)[1])
