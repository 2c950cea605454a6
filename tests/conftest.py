"""Settings that must stand before NumPy and torch are imported."""

import os

# The tensors of the tests are tiny: a second OpenMP thread would only wait, or spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
