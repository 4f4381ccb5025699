#!/usr/bin/env bash
# What the CPU backend is tested by, on the CUDA device of this machine: kernels; golden values and layouts (the whole parity suite, up to six
# ranks on one device); memory of a step; a state on the device and its snapshots; self-checks of a device; a job of four ranks with a kill, and its checkpoints resumed on cuda and cpu. test_gpu.sh [NODE_TEST_OPTION...]
# Works in the repository after `make build cuda`, and in what scripts/pack_gpu.sh has packed.
set -euo pipefail
cd "$(dirname "$0")/.."
node=node
if [ -x node/bin/node ]; then
  node=$PWD/node/bin/node
  export LD_LIBRARY_PATH=$PWD/node/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
mapfile -t files < <(find dist/test/native -name '*.test.js' ! -name 'collectives_*' | sort)
mapfile -t -O "${#files[@]}" files < <(find dist/test/parity -name '*.test.js' | sort)
files+=(dist/test/cuda/step_memory.test.js dist/test/cuda/device_checks.test.js dist/test/cuda/state_on_device.test.js)
whole=(dist/test/cuda/rank_on_device.test.js dist/test/cuda/job.test.js)
if ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  echo "SKIP (no CUDA device): $((${#files[@]} + ${#whole[@]})) files of test/native, test/parity and test/cuda"
  exit 0
fi
export GOKU_NATIVE=$PWD/build/cuda/Release/goku_cuda.node
if [ ! -e "$GOKU_NATIVE" ]; then
  echo "Cannot test on a CUDA device: no $GOKU_NATIVE, run make cuda" >&2
  exit 1
fi
if [ -e build/Release/goku_cpu.node ] && command -v ffmpeg >/dev/null; then
  files+=("${whole[@]}")
else
  echo "SKIP (no goku_cpu.node or no ffmpeg): ${#whole[@]} files, ${whole[*]}"
fi
exec "$node" --enable-source-maps --test --test-concurrency=1 "$@" "${files[@]}"
