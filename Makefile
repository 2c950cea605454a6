# make demo   train on real digits, search, and write demo-report/index.html
# make test   lint, types and tests
# Both make what they need in .venv and are quick when run again.
#
# make cubins  every Triton kernel compiled for three generations of GPUs, registers and spills checked
# make kernel-check  the search core by itself, every instruction set that this machine runs
# make neon-check    the same for 64-bit ARM, by a cross compiler and an emulator
# make cuda-check    the CUDA search by itself, its kernels run by an emulator on the CPU
# make asan | tsan   search tests on a build with AddressSanitizer and UBSan | ThreadSanitizer
#
# make bench  benchmarks beside their peers -> benchmarks/results/
# make gpu    all GPU tests and benchmarks, or PART=search, PART=kernels; says so where there is no GPU
# make format | lint | types | clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml MANIFEST.in $(wildcard csrc/*.* csrc/*/*.*)
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*.cu csrc/cuda/*.cpp csrc/cuda/*.h csrc/cuda/*.cuh) \
       $(wildcard tests/csrc/*.cpp tests/csrc/*.h tests/csrc/*/*.cpp tests/csrc/*/*.h)
# Build requirements are pinned too, so the variable and not the option.
export PIP_CONSTRAINT := $(abspath constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: cubins demo test pytest lint types format bench gpu clean kernel-check neon-check cuda-check asan tsan

demo: $(VENV)/.demo
	$(BIN)/python -m coophash demo --out demo-report

test: lint types pytest

pytest: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal \
	  $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-only \
	  --benchmark-json=benchmarks/results/latest.json $(PYTEST_ARGS)

cubins: $(VENV)/.dev
	$(BIN)/python -m pytest -m aot tests/kernels $(PYTEST_ARGS)

kernel-check: $(VENV)/.dev
	$(BIN)/python tests/csrc/build_check.py
	$(BIN)/python tests/csrc/build_check.py -- --threads

neon-check: $(VENV)/.dev
	$(BIN)/python tests/csrc/build_check.py --neon
	$(BIN)/python tests/csrc/build_check.py --neon -- --threads

cuda-check: $(VENV)/.dev
	$(BIN)/python tests/csrc/build_cuda_check.py
	$(BIN)/python tests/csrc/build_cuda_check.py --sanitize address -- --short

asan: $(VENV)/.dev
	$(BIN)/python tests/sanitize.py address

tsan: $(VENV)/.dev
	$(BIN)/python tests/sanitize.py thread

# No virtual environment and no network: the system Python, with torch, triton, pybind11 and pytest.
gpu:
	PYTHON=$(PYTHON) sh benchmarks/gpu.sh $(PART)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "coophash needs Python 3.10 or later")'
	$(PYTHON) -m venv $(VENV)

# An editable install: Python files are used in place, the extension is built again when csrc changes.
$(VENV)/.demo: constraints.txt $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	touch $@

$(VENV)/.dev: constraints.txt $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info coophash/*.so demo-report .mypy_cache .ruff_cache .hypothesis
