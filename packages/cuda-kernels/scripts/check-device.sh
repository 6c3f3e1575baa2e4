#!/usr/bin/env bash
# One command on a machine with an NVIDIA GPU, which needs nvcc, CMake and a C++ compiler and nothing else: builds the programs for
# the device that is there, checks every kernel against its reference, looks for bad memory accesses and races with
# compute-sanitizer, and measures.
#
#   bash packages/cuda-kernels/scripts/check-device.sh [RESULTS_FOLDER]
#
# RESULTS_FOLDER (default build/device in the package) gets test.log, sanitizer.log, bench.log, bench.json, ptxas.log and, where
# python3 has PyTorch, torch.json: its own operators at the same sizes. Exit status: 0 when everything passed.
set -uo pipefail
package=$(cd "$(dirname "$0")/.." && pwd)
results=${1:-$package/build/device}
mkdir -p "$results"
build=$package/build/device-build
failed=0

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$results/device.txt"
cmake -S "$package" -B "$build" -DMAGICPIG_CUDA=ON -DMAGICPIG_EMULATOR=OFF \
  "-DMAGICPIG_CUDA_ARCHITECTURES=${capability:-90}" -DCMAKE_CUDA_FLAGS=-Xptxas=-v >"$results/configure.log" 2>&1 &&
  cmake --build "$build" --parallel "$(nproc)" >"$results/ptxas.log" 2>&1 || {
  echo 'the build failed:'
  tail -40 "$results/configure.log" "$results/ptxas.log"
  exit 1
}
echo "spills: $(grep -c ' [1-9][0-9]* bytes spill' "$results/ptxas.log") kernels"

for round in 1 2 3; do
  "$build/Release/kernels-test" >"$results/test-$round.log" 2>&1 || failed=1
  tail -1 "$results/test-$round.log"
  grep FAILED "$results/test-$round.log" | head -20
done

"$build/Release/kernels-bench" --json "$results/bench.json" 2>&1 | tee "$results/bench.log" || failed=1
if python3 -c 'import torch' 2>/dev/null; then
  python3 "$package/scripts/torch_beside.py" "$results/torch.json" || failed=1
fi

# The tools slow kernels down by a factor of ten to a hundred: small shapes only.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    timeout 100 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/Release/kernels-test" --quick >"$results/sanitizer-$tool.log" 2>&1
    status=$?
    echo "compute-sanitizer $tool: exit $status, $(grep -E '(ERROR|RACECHECK) SUMMARY' "$results/sanitizer-$tool.log" || echo 'no summary')"
    [ $status -eq 0 ] || failed=1
  done
else
  echo 'compute-sanitizer is not installed: memory accesses and races were not checked'
fi

[ $failed -eq 0 ] && echo 'all passed' || echo 'SOMETHING FAILED'
exit $failed
