#!/usr/bin/env bash
# The kernels on a machine with an NVIDIA GPU, which needs nvcc, CMake and a C++ compiler and nothing else:
#
#   bash packages/cuda-kernels/scripts/check-device.sh [--part NAME,...] [--results FOLDER]
#
#   kernels      builds the programs for the device that is there, checks every kernel against its reference in three runs, and measures
#                it; beside it PyTorch's own operators, where python3 has PyTorch. Writes cuda-kernels.json and kernels.log.
#   sanitizers   checks again under compute-sanitizer: bad accesses, races, barriers, uninitialised reads. Writes sanitizers.log.
#
# Both, when none is named. JSON goes to benchmarks/results of the checkout and logs to build/device of the package; all to FOLDER when one
# is named. A part ends after ten minutes at the latest. Exit status: 0 when everything passed.
#
# MAGICPIG_EMULATE_DEVICE=1 takes the emulated device instead, one kernel and tiny sizes: to see that the script runs.
set -uo pipefail
all_parts=kernels,sanitizers
. "$(dirname "$0")/device-options.sh"
build=$package/build/device-build

# Builds what the parts run, of which the names are in $check and $measure.
build_programs() {
  if [ -n "$emulate" ]; then
    check="$package/build/Release/kernels-emulated-test"
    measure="$package/build/Release/kernels-emulated-bench-test"
    [ -x "$check" ] && [ -x "$measure" ] && return
    build=$package/build/native-test
    options=(-DMAGICPIG_CUDA=OFF)
  else
    local capability=90
    if command -v nvidia-smi >/dev/null; then
      nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
      capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')
    else
      echo 'nvidia-smi was not found: built for compute capability 9.0'
    fi
    options=(-DMAGICPIG_CUDA=ON -DMAGICPIG_EMULATOR=OFF "-DMAGICPIG_CUDA_ARCHITECTURES=$capability" -DCMAKE_CUDA_FLAGS=-Xptxas=-v)
  fi
  log=$logs/build.log
  { cmake -S "$package" -B "$build" "${options[@]}" && cmake --build "$build" --parallel "$(nproc)"; } >"$log" 2>&1 || {
    echo 'the build failed:'
    tail -60 "$log"
    exit 1
  }
  echo "spills: $(grep -c ' [1-9][0-9]* bytes spill' "$log") kernels"
  check=$build/Release/kernels-${emulate:+emulated-}test
  measure=$build/Release/kernels-${emulate:+emulated-}bench${emulate:+-test}
}

run_kernels() {
  local failed=0
  for round in 1 2 3; do
    "$check" ${emulate:+--quick --filter rms_norm} || failed=1
  done
  "$measure" ${emulate:+--small} --json "$results/cuda-kernels.json" || failed=1
  if python3 -c 'import torch' 2>/dev/null; then
    python3 "$package/scripts/torch_beside.py" "$results/cuda-kernels.json" || failed=1
  else
    echo 'python3 has no PyTorch: its operators were not measured'
  fi
  return $failed
}

# The tools slow kernels down by a factor of ten to a hundred: small shapes only.
run_sanitizers() {
  local failed=0 sanitizer=(timeout 120 compute-sanitizer)
  if [ -n "$emulate" ]; then
    sanitizer=(emulated_sanitizer)
  elif ! command -v compute-sanitizer; then
    echo 'compute-sanitizer is not installed: memory accesses and races were not checked'
    return 1
  fi
  for tool in memcheck racecheck synccheck initcheck; do
    "${sanitizer[@]}" --tool $tool --error-exitcode 9 "$check" --quick
    local status=$?
    echo "$tool: exit $status"
    [ $status -eq 0 ] || failed=1
  done
  return $failed
}

# The emulator checks by itself.
emulated_sanitizer() { # --tool NAME --error-exitcode N PROGRAM ...
  "${@:5}" --filter rms_norm
}

# What the log has to say, on the screen.
summary() {
  grep -E 'FAILED|failed|SUMMARY|exit [0-9]|ceilings|ms |spill|not installed|no PyTorch' "$1" | grep -v ' ok ' | tail -120
}

failed=0
build_programs
for part in ${parts//,/ }; do
  "run_$part" >"$logs/$part.log" 2>&1 && echo "$part: passed" || {
    echo "$part: FAILED"
    failed=1
  }
  summary "$logs/$part.log"
done
exit $failed
