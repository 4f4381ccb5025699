#!/usr/bin/env bash
# The CUDA backend (docs/cuda.md): build_cuda.sh addon | kernels | emulated
#   addon     goku_cuda.node for every device that is supported
#   kernels   the kernels for one device, to see that they compile; without nvcc: prints SKIP (no nvcc) and ends with 0
#   emulated  goku_cuda_emulated.node, for tests on the CPU
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?want addon, kernels or emulated}
build() { # build FOLDER TARGET CMAKE_OPTION...
  local folder=$1 target=$2
  shift 2
  cmake -S . -B "$folder" -G Ninja "$@" | sed -n 's/^-- goku:/goku:/p'
  cmake --build "$folder" --target "$target"
}
case $what in
  addon) build build/cuda goku_cuda -DGOKU_CUDA=ON ;;
  kernels)
    if ! command -v nvcc >/dev/null && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
      echo "SKIP (no nvcc)"
      exit 0
    fi
    build build/cuda-kernels goku_cuda_kernels -DGOKU_CUDA=kernels -DGOKU_CUDA_ARCHITECTURES=90a-real
    ;;
  emulated) build build/cuda-emulated goku_cuda_emulated -DGOKU_CUDA=OFF ;;
  *)
    echo "Cannot build \"$what\": want addon, kernels or emulated" >&2
    exit 2
    ;;
esac
