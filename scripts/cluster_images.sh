#!/usr/bin/env bash
# The images of a whole cluster on one machine (make test-cluster), as archives in build/cluster/images: controller and worker-cpu by
# deploy/docker/build.sh as everywhere, but on bases made of Debian's packages, since no registry of images is asked: debootstrap's
# smallest system with this machine's node and npm; etcd, of Debian; and pause, of Kubernetes. Needs root, buildah and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=$PWD/build/cluster
OUT=$ROOT/images
SUITE=bookworm
mkdir -p "$OUT" "$ROOT/storage"
# Storage of its own: nothing of another user of buildah on this machine is seen or kept.
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/storage"\n' "$ROOT" "$ROOT" >"$ROOT/storage.conf"
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' >"$ROOT/policy.json"
export CONTAINERS_STORAGE_CONF=$ROOT/storage.conf

make_image() { # make_image NAME FOLDER [PROGRAM]: of a folder's files
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$2" / >/dev/null
  buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --entrypoint "[\"${3:-/bin/sh}\"]" "$container"
  buildah commit --quiet --signature-policy "$ROOT/policy.json" --rm "$container" "$1" >/dev/null
}
archive() { # archive NAME FILE
  # containerd counts what a node holds by these names.
  buildah push --quiet --disable-compression --signature-policy "$ROOT/policy.json" "localhost/$1" "oci-archive:$OUT/$2.part:docker.io/library/$1"
  mv "$OUT/$2.part" "$OUT/$2"
}
system() { # system FOLDER PACKAGE...: Debian with those packages
  local folder=$1 mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sort -u | head -1)
  debootstrap --variant=minbase --include="$(IFS=, && echo "${*:2}")" "$SUITE" "$folder" "$mirror" >"$ROOT/debootstrap.log" 2>&1 ||
    { tail -5 "$ROOT/debootstrap.log" >&2 && exit 1; }
  rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/dev/* "$folder"/usr/share/{doc,man,locale}/*
  # Who signs for this machine's mirrors signs for those of the build as well.
  cp -L /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
}

is_made() { buildah inspect --type image "localhost/$1" >/dev/null 2>&1; }
work=$(mktemp -d "$ROOT/base.XXXX")
trap 'rm -rf "$work"' EXIT

if ! is_made goku-etcd:test; then
  system "$work/etcd" ca-certificates etcd-server
  make_image goku-etcd:test "$work/etcd"
fi
if ! is_made goku-node; then
  system "$work/node" ca-certificates
  mkdir -p "$work/node/usr/local/lib/node_modules" "$work/node/usr/local/etc"
  cp -L "$(command -v node)" "$work/node/usr/local/bin/node"
  cp -r "$(dirname "$(realpath "$(command -v npm)")")/.." "$work/node/usr/local/lib/node_modules/npm"
  for tool in npm npx; do ln -s "../lib/node_modules/npm/bin/$tool-cli.js" "$work/node/usr/local/bin/$tool"; done
  echo 'cafile=/etc/ssl/certs/ca-certificates.crt' >"$work/node/usr/local/etc/npmrc"
  make_image goku-node "$work/node"
fi
# The network of this machine, for its mirrors, which keep no snapshots; no runtime is needed to run apt and npm.
BUILDER=buildah NODE_IMAGE=localhost/goku-node:latest APT_SNAPSHOT=none \
  BUILDER_ARGS="--isolation chroot --network host --pull-never --signature-policy $ROOT/policy.json" \
  bash deploy/docker/build.sh controller worker-cpu
version=$(node -p 'require("./package.json").version')
for image in controller worker-cpu; do archive "goku-$image:$version" "$image.tar"; done
if ! is_made goku-pause:test; then
  mkdir -p "$work/pause"
  cp build/kubernetes/pause "$work/pause/pause"
  make_image goku-pause:test "$work/pause" /pause
fi
for image in etcd pause; do
  if [ ! -e "$OUT/$image.tar" ]; then archive "goku-$image:test" "$image.tar"; fi
done
