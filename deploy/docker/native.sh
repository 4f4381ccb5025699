#!/bin/sh
# native.sh MARCH [cuda]: build/Release/goku_cpu.node, with `cuda` build/cuda/Release/goku_cuda.node as well, and in build/lib the
# libraries that they need and images do not have.
set -eu
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGOKU_MARCH="$1"
cmake --build build
mkdir -p build/Release build/lib
[ -e build/Release/goku_cpu.node ] || cp build/goku_cpu.node build/Release/
if [ "${2:-}" = cuda ]; then
  cmake -S . -B build/cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DGOKU_MARCH="$1" -DGOKU_CUDA=ON
  cmake --build build/cuda --target goku_cuda
fi
find build -name 'goku_*.node' -path '*/Release/*' -exec ldd {} + | awk '/lib(dnnl|isal|gomp|OpenCL)\./ { print $3 }' | sort -u |
  xargs -I{} cp -L {} build/lib/
[ -n "$(ls build/lib)" ]
