#!/bin/sh
# Everything that needs a GPU, in one go: build with the system's nvcc, the tests marked `gpu`, the
# GPU benchmarks. No network, no virtual environment. JSON goes to benchmarks/results/<GPU name>.json.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

name=$("$python" - <<'PY'
try:
    import torch
except ImportError:
    raise SystemExit(0)
if torch.cuda.is_available():
    print(torch.cuda.get_device_name().replace(" ", "_"))
PY
)
if [ -z "$name" ]; then
    echo "no GPU: torch sees no CUDA device here, so nothing was run and nothing was measured"
    exit 0
fi

site=build/gpu
rm -rf "$site"
COOPHASH_CUDA=1 "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index \
    --target "$site" .
export PYTHONPATH="$PWD/$site"
export PYTHONSAFEPATH=1 # not the checkout's own folder, which has no extension
results=benchmarks/results/$name.json
status=0
"$python" -m pytest tests -m gpu || status=$?
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        # every tensor an allocation of its own, so that what is read beside it is found
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" -m pytest tests/test_cuda_gpu.py -q -m gpu \
            -k "test_every_width and clustered and (1- or 8- or 33- or 64-) or test_relevance" ||
            status=$?
    done
else
    echo "compute-sanitizer is not on PATH: not run"
fi
"$python" -m pytest benchmarks -m gpu --benchmark-json="$results" \
    --benchmark-columns=median,iqr,rounds --benchmark-sort=name || status=$?
[ ! -f "$results" ] || "$python" benchmarks/table.py "$results"
echo "results: $results"
exit $status
