#!/usr/bin/env bash
# One command on a machine with an NVIDIA GPU, with nvcc, CMake and a C++ compiler: checks and measures the kernels
# (check-device.sh), then the whole runner at the sizes of Llama-3.1-8B.
#
#   bash packages/cuda-kernels/scripts/measure-device.sh [RESULTS_FOLDER] [arguments of packages/model-llama/bench/cuda.mjs]
#
# Node and the built packages are those of this checkout, or else those that pack-device.sh packed. RESULTS_FOLDER (default
# build/device in the package) gets what check-device.sh writes, runner.log and cuda.json.
set -uo pipefail
package=$(cd "$(dirname "$0")/.." && pwd)
results=${1:-$package/build/device}
shift $(($# > 0 ? 1 : 0))
mkdir -p "$results"
results=$(cd "$results" && pwd)
failed=0

bash "$package/scripts/check-device.sh" "$results" || failed=1

if command -v node >/dev/null && [ -e "$package/dist/index.js" ]; then
  node=node
  runner=$package/../model-llama
else
  pack=$package/build/device-pack
  mkdir -p "$pack/unpacked" && tar -C "$pack/unpacked" -xJf "$pack/magicpig.tar.xz" || {
    echo 'neither a built checkout nor a pack is here: build, then run pack-device.sh'
    exit 1
  }
  node=$pack/unpacked/node
  runner=$pack/unpacked/app
fi
MAGICPIG_RESULTS=$results "$node" "$runner/bench/cuda.mjs" "$@" 2>&1 | tee "$results/runner.log"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
exit $failed
