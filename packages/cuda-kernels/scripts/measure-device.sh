#!/usr/bin/env bash
# One command on a machine with an NVIDIA GPU, with nvcc, CMake and a C++ compiler: checks and measures the kernels
# (check-device.sh), then the whole runner at the sizes of Llama-3.1-8B.
#
#   bash packages/cuda-kernels/scripts/measure-device.sh [RESULTS_FOLDER] [kernels,check,prefill,decode] [arguments of
#     packages/model-llama/bench/cuda.mjs]
#
# The parts (all, when none are named) end after ten minutes each at the latest: run them one by one where a machine is lent for less than
# all of them take. Node and the built packages are those of this checkout, or else those that pack-device.sh packed. RESULTS_FOLDER
# (default build/device in the package) gets what check-device.sh writes, and <part>.log and <part>/cuda.json of the others.
set -uo pipefail
package=$(cd "$(dirname "$0")/.." && pwd)
results=${1:-$package/build/device}
shift $(($# > 0 ? 1 : 0))
parts=${1:-kernels,check,prefill,decode}
shift $(($# > 0 ? 1 : 0))
mkdir -p "$results"
results=$(cd "$results" && pwd)
failed=0
limit=570 # seconds

run_kernels() {
  timeout $limit bash "$package/scripts/check-device.sh" "$results"
}

find_runner() {
  if command -v node >/dev/null && [ -e "$package/dist/index.js" ]; then
    node=node
    runner=$package/../model-llama
    return
  fi
  pack=$package/build/device-pack
  node=$pack/unpacked/node
  runner=$pack/unpacked/app
  [ -e "$runner" ] || { mkdir -p "$pack/unpacked" && tar -C "$pack/unpacked" -xJf "$pack/magicpig.tar.xz"; } || {
    echo 'neither a built checkout nor a pack is here: build, then run pack-device.sh'
    exit 1
  }
}

run_runner() {
  find_runner
  mkdir -p "$results/$1"
  MAGICPIG_RESULTS=$results/$1 timeout $limit "$node" "$runner/bench/cuda.mjs" --parts "$1" "${@:2}" 2>&1 | tee "$results/$1.log"
  return "${PIPESTATUS[0]}"
}

for part in ${parts//,/ }; do
  case $part in
    kernels) run_kernels || failed=1 ;;
    check | prefill | decode) run_runner "$part" "$@" || failed=1 ;;
    *)
      echo "there is no part '$part': kernels, check, prefill, decode"
      failed=1
      ;;
  esac
done
exit $failed
