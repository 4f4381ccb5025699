#!/usr/bin/env bash
# Builds the images with docker, podman or buildah, whichever is there and works.
#   deploy/docker/build.sh [controller] [worker-cpu] [worker-cuda]      none named: all three
# REGISTRY=ghcr.io/me/ TAG=1.2.3   names and tag; default: no registry, the version of package.json
# NODE_IMAGE, CUDA_BUILD_IMAGE, CUDA_IMAGE, APT_SNAPSHOT, GOKU_MARCH   arguments of the Dockerfile, which pins them; APT_SNAPSHOT=none: today's
#                                                                      packages, for a base of one's own or where no snapshot can be reached
# BUILDER=buildah BUILDER_ARGS="--isolation chroot"   the tool, and what more it is told
# PUSH=yes   pushes them to REGISTRY;  LOAD=kind, minikube or k3d   puts them onto the nodes of such a cluster on this machine
set -euo pipefail
cd "$(dirname "$0")/../.."

works() { # docker needs its engine, the others do not
  case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
  esac
}
builder=${BUILDER:-}
if [ -z "$builder" ]; then
  for tool in docker podman buildah; do
    if works "$tool"; then builder=$tool && break; fi
  done
fi
if [ -z "$builder" ]; then
  echo "Cannot build images: neither a docker engine, nor podman or buildah was found; apt-get install buildah" >&2
  exit 1
fi

version=$(node -p 'require("./package.json").version')
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# Of the commit, so that the same source makes the same image, whenever.
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
args=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
for name in NODE_IMAGE CUDA_BUILD_IMAGE CUDA_IMAGE APT_SNAPSHOT GOKU_MARCH; do
  if [ -n "${!name:-}" ]; then args+=(--build-arg "$name=${!name}"); fi
done
case $builder in
  docker) export SOURCE_DATE_EPOCH=$epoch && args+=(--build-arg "SOURCE_DATE_EPOCH=$epoch") ;;
  *) args+=(--format oci --timestamp "$epoch" --layers) ;;
esac
# shellcheck disable=SC2206
args+=(${BUILDER_ARGS:-})

load() { # load IMAGE: onto the nodes, by a file that every builder writes and every such cluster reads
  local file
  file=$(mktemp --suffix=.tar)
  case $builder in
    buildah) buildah push --quiet "$1" "docker-archive:$file:$1" ;;
    *) "$builder" save -o "$file" "$1" ;;
  esac
  case $LOAD in
    kind) kind load image-archive "$file" ;;
    minikube) minikube image load "$file" ;;
    k3d) k3d image import "$file" ;;
  esac
  rm -f "$file"
}
refuse() {
  echo "Cannot build images: $1" >&2
  exit 2
}
[[ ${LOAD:-} =~ ^(|kind|minikube|k3d)$ ]] || refuse "LOAD is \"$LOAD\", want kind, minikube or k3d"
[ -z "${LOAD:-}" ] || command -v "$LOAD" >/dev/null || refuse "LOAD is $LOAD, which is not on PATH"
[ -z "${PUSH:-}" ] || [ -n "${REGISTRY:-}" ] || refuse "PUSH wants to know where to: REGISTRY=ghcr.io/me/"

targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(controller worker-cpu worker-cuda)
for target in "${targets[@]}"; do
  image="${REGISTRY:-}goku-$target:${TAG:-$version}"
  echo "building $image with $builder"
  "$builder" build -f deploy/docker/Dockerfile --target "$target" -t "$image" "${args[@]}" .
  if [ -n "${PUSH:-}" ]; then "$builder" push "$image"; fi
  if [ -n "${LOAD:-}" ]; then load "$image"; fi
done
