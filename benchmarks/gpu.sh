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
results=benchmarks/results/$name.json
status=0
"$python" -m pytest tests -m gpu || status=$?
"$python" -m pytest benchmarks -m gpu --benchmark-json="$results" \
    --benchmark-columns=median,iqr,rounds --benchmark-sort=name || status=$?
[ ! -f "$results" ] || "$python" benchmarks/table.py "$results"
echo "results: $results"
exit $status
