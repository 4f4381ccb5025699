#!/usr/bin/env bash
# Packs what a machine with a GPU and without Node needs to run scripts/test_gpu.sh, but for its job: Node, the addon, the compiled tests.
#   pack_gpu.sh FILE.tar.xz, after `make build cuda`; there: tar xJf FILE.tar.xz && bash scripts/test_gpu.sh
# cuBLASLt is not packed: a machine with a GPU has it, or docs/cuda.md says how to get it.
set -euo pipefail
cd "$(dirname "$0")/.."
to=$(realpath -m "${1:?want the file to write, .tar.xz}")
addon=build/cuda/Release/goku_cuda.node
if [ ! -e $addon ] || [ ! -d dist/test/native ]; then
  echo "Cannot pack: no $addon or no dist/test/native, run make build cuda" >&2
  exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/node/bin" "$folder/node/lib" "$folder/scripts" "$folder/build/cuda/Release" "$folder/node_modules" "$folder/test"
cp "$(command -v node)" "$folder/node/bin/node"
strip "$folder/node/bin/node"
# The one library beside the C and C++ runtimes that the addon links.
cp "$(ldd $addon | awk '/libgomp/ { print $3 }')" "$folder/node/lib/"
cp $addon "$folder/build/cuda/Release/"
cp scripts/test_gpu.sh "$folder/scripts/"
cp -a dist package.json "$folder/"
cp -a test/golden "$folder/test/"
cp -a node_modules/zod "$folder/node_modules/" # of all packages the one that the parity suite needs
tar --owner=0 --group=0 --sort=name -C "$folder" -cf - . | xz -T0 -6 >"$to"
echo "packed $(du -h "$to" | cut -f1): $to"
