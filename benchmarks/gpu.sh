#!/bin/sh
# Everything that needs a GPU, in one go: build with the system's nvcc for the GPU at hand, the tests
# marked `gpu`, compute-sanitizer, the GPU benchmarks. No network, no virtual environment. JSON goes
# to benchmarks/results/<GPU name>.json, the tests' results to build/gpu-tests.xml.
#
#   sh benchmarks/gpu.sh            all
#   sh benchmarks/gpu.sh search     the CUDA search alone
#   sh benchmarks/gpu.sh kernels    the Triton kernels alone
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
part=${1:-all}
PATH=$PATH:/usr/local/cuda/bin

# Files that have something for a GPU: others may import what is not on such a machine.
case $part in
all)
    tests=$(grep -rl --include='test_*.py' 'mark\.gpu' tests)
    benches=$(grep -rl --include='bench_*.py' 'mark\.gpu' benchmarks)
    ;;
search) tests=tests/test_cuda_gpu.py benches=benchmarks/bench_cuda_search.py ;;
kernels)
    tests=$(grep -rl --include='test_*.py' 'mark\.gpu' tests | grep -v test_cuda_gpu)
    benches=$(grep -rl --include='bench_*.py' 'mark\.gpu' benchmarks | grep -v bench_cuda_search)
    ;;
*)
    echo "gpu.sh: all, search or kernels, not $part" >&2
    exit 2
    ;;
esac

gpu=$("$python" - <<'PY'
try:
    import torch
except ImportError:
    raise SystemExit(0)
if torch.cuda.is_available():
    print(torch.cuda.get_device_name().replace(" ", "_"), end=" ")
    print("%d%d" % torch.cuda.get_device_capability())
PY
)
if [ -z "$gpu" ]; then
    echo "no GPU: torch sees no CUDA device here, so nothing was run and nothing was measured"
    exit 0
fi
name=${gpu% *} capability=${gpu##* }

if nvcc --list-gpu-code | grep -qx "sm_$capability"; then
    COOPHASH_CUDA_ARCHS=${COOPHASH_CUDA_ARCHS:-$capability}
    export COOPHASH_CUDA_ARCHS
fi
site=build/gpu
rm -rf "$site"
COOPHASH_CUDA=1 "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index \
    --target "$site" .
export PYTHONPATH="$PWD/$site"
export PYTHONSAFEPATH=1 # not the checkout's own folder, which has no extension
results=benchmarks/results/$name.json
status=0
# shellcheck disable=SC2086 # lists of files
"$python" -m pytest $tests -m gpu --continue-on-collection-errors \
    --junitxml=build/gpu-tests.xml || status=$?
if [ "$part" = kernels ]; then
    :
elif command -v compute-sanitizer >/dev/null; then
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
# shellcheck disable=SC2086
"$python" -m pytest $benches -m gpu --continue-on-collection-errors --benchmark-json="$results" \
    --benchmark-columns=median,iqr,rounds --benchmark-sort=name || status=$?
[ ! -s "$results" ] || "$python" benchmarks/table.py "$results" || status=$?
echo "results: $results"
exit $status
