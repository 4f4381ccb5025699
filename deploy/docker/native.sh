#!/bin/sh
# native.sh MARCH: build/Release/goku_cpu.node, and in build/lib the libraries that it needs and images do not have.
set -eu
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGOKU_MARCH="$1"
cmake --build build
mkdir -p build/Release build/lib
[ -e build/Release/goku_cpu.node ] || cp build/goku_cpu.node build/Release/
ldd build/Release/goku_cpu.node | awk '/lib(dnnl|isal|gomp|OpenCL)\./ { print $3 }' | xargs -I{} cp -L {} build/lib/
[ -n "$(ls build/lib)" ]
