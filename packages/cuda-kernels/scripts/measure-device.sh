#!/usr/bin/env bash
# Everything that is to be known on a machine with an NVIDIA GPU, with nvcc, CMake and a C++ compiler:
#
#   bash packages/cuda-kernels/scripts/measure-device.sh [--part NAME,...] [--results FOLDER]
#
#   kernels, sanitizers   as in check-device.sh
#   check                 a model answers as on the CPU, dense and sampled
#   decode                Llama-3.1-8B at 96K tokens, (10, 150), one sequence: milliseconds a token, and where they go
#   throughput-96k, throughput-16k   tokens/s of `magicpig` over `dense` at 24, 40, 48 and 80 GiB of device memory, the best batch of each
#   prefill               prompts of 16K and 96K tokens with tables being built, and without
#
# All parts in this order, when none is named. Each ends after ten minutes at the latest: name a few where a machine is lent for less than
# all of them take. Weights are random, keys are filled in directly, shaped as real ones. Each part prints its ratios and writes
# cuda-<part>.json and <part>.log: JSON to benchmarks/results of the checkout (`node benchmarks/tables.mjs` puts it into the README) and logs
# to build/device of the package; all to FOLDER when one is named. Node and the built packages are those of this checkout, or else those
# that pack-device.sh packed.
#
# MAGICPIG_EMULATE_DEVICE=1 takes the emulated device instead, with tiny models and contexts: to see that everything runs.
set -uo pipefail
all_parts=kernels,sanitizers,check,decode,throughput-96k,throughput-16k,prefill
. "$(dirname "$0")/device-options.sh"
limit=570 # seconds

find_runner() {
  if command -v node >/dev/null && [ -e "$package/dist/index.js" ]; then
    node=node
    runner=$package/../model-llama
    return
  fi
  local pack=$package/build/device-pack
  node=$pack/unpacked/node
  runner=$pack/unpacked/app
  [ -e "$runner" ] || { mkdir -p "$pack/unpacked" && tar -C "$pack/unpacked" -xJf "$pack/magicpig.tar.xz"; } || {
    echo 'neither a built checkout nor a pack is here: build, then run pack-device.sh'
    exit 1
  }
}

run_runner() { # part of cuda.mjs, tokens of context where there is a choice
  find_runner
  local options=(${2:+--tokens "$2"})
  [ -n "$emulate" ] && options=(--emulate)
  MAGICPIG_RESULTS=$results timeout $limit "$node" "$runner/bench/cuda.mjs" "$1" "${options[@]}" 2>&1 |
    tee "$logs/$part.log"
  return "${PIPESTATUS[0]}"
}

failed=0
for part in ${parts//,/ }; do
  echo "== $part"
  case $part in
    kernels | sanitizers) timeout $limit bash "$package/scripts/check-device.sh" --part "$part" "${folder[@]}" ;;
    check | decode | prefill) run_runner "$part" ;;
    throughput-96k) run_runner throughput 98304 ;;
    throughput-16k) run_runner throughput 16384 ;;
  esac || {
    echo "$part: FAILED"
    failed=1
  }
done
exit $failed
