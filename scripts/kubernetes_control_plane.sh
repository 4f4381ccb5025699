#!/usr/bin/env bash
# Builds Kubernetes into build/kubernetes, for `make test-kubernetes` and `make test-cluster`, from what Debian has:
# - kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy 1.20.2 from Debian 12's source, the last that has them,
#   with its Go 1.19; and pause, in which a pod's namespaces live;
# - apiextensions-apiserver, which serves definitions with their rules, from the Go libraries of Debian unstable and its Go.
# Nothing is installed, and no root is needed: packages are fetched, verified by apt and unpacked below build/. Half an hour on two cores and 6 GB
# while it builds; 550 MB stay. Once: what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

TOOLS=$PWD/build/kubernetes
WORK=$PWD/build/kubernetes-work
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
CORE=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
CORE_VERSION=1.20.2

refuse() {
  echo "Cannot build a control plane of Kubernetes: $1" >&2
  exit 1
}
[ -e "$KEYS" ] || refuse "no $KEYS: this machine is not of Debian"
command -v dpkg-source >/dev/null || refuse "no dpkg-source, install dpkg-dev"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sort -u | head -1)
[ -n "$mirror" ] || refuse "apt knows no mirror of Debian"

debian() { # debian SUITE PROGRAM ARGUMENT...: a program of apt for that suite alone, in folders of its own
  local at=$WORK/$1 program=$2
  mkdir -p "$at"/{lists,cache/archives}/partial
  printf 'Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$1" "$KEYS" >"$at/debian.sources"
  "$program" -o Dir::Etc::SourceList="$at/debian.sources" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$at/lists" \
    -o Dir::Cache="$at/cache" -o APT::Sandbox::User=root "${@:3}"
}
unpack() { # unpack SUITE PACKAGE...: into $WORK/SUITE/root
  local suite=$1
  shift
  mkdir -p "$WORK/$suite/debs" "$WORK/$suite/root"
  (cd "$WORK/$suite/debs" && debian "$suite" apt-get -qq download "$@" && for deb in *.deb; do dpkg -x "$deb" ../root; done)
}
export CGO_ENABLED=0 GOFLAGS=-p=$(nproc) GOPROXY=off GOTOOLCHAIN=local GOCACHE=$WORK/go-cache HOME=$WORK

build_core() {
  debian bookworm apt-get -qq update
  unpack bookworm golang-1.19-go golang-1.19-src
  (cd "$WORK" && debian bookworm apt-get -qq source kubernetes)
  local tree
  tree=$(echo "$WORK"/kubernetes-*"$CORE_VERSION"/)
  # Its makefile moves programs with rsync, from one folder to another.
  mkdir -p "$WORK/bin" "$tree/.go/src/k8s.io"
  printf '#!/bin/sh\nexec cp -p "$2" "$3"\n' >"$WORK/bin/rsync"
  chmod +x "$WORK/bin/rsync"
  ln -sfn ../../.. "$tree/.go/src/k8s.io/kubernetes"
  # Its version would be read from git.
  printf 'KUBE_GIT_COMMIT=debian\nKUBE_GIT_TREE_STATE=clean\nKUBE_GIT_VERSION=v%s\nKUBE_GIT_MAJOR=1\nKUBE_GIT_MINOR=20\n' "$CORE_VERSION" >"$WORK/version"
  GOROOT=$WORK/bookworm/root/usr/lib/go-1.19 GOPATH=$tree/.go KUBE_GIT_VERSION_FILE=$WORK/version \
    PATH=$WORK/bookworm/root/usr/lib/go-1.19/bin:$WORK/bin:$PATH \
    make -C "$tree" GOLDFLAGS="-s -w" WHAT="$(printf 'cmd/%s ' "${CORE[@]}")"
  for program in "${CORE[@]}"; do cp "$tree/_output/bin/$program" "$TOOLS/"; done
  # Last, since whoever finds it finds all of them.
  ${CC:-cc} -Os -static -DVERSION="$CORE_VERSION" -o "$TOOLS/pause" "$tree/build/pause/linux/pause.c"
}

build_definitions() {
  debian sid apt-get -qq update
  local root=$WORK/sid/root go packages
  go=$(debian sid apt-cache depends golang-go | sed -n 's/.*Depends: golang-\([0-9.]*\)-go$/\1/p')
  mapfile -t packages < <(debian sid apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances golang-k8s-apiextensions-apiserver-dev "golang-$go-go" | grep -E '^golang-[a-z0-9.-]+$' | sort -u)
  unpack sid "${packages[@]}"
  GOROOT=$root/usr/lib/go-$go GO111MODULE=off GOPATH=$root/usr/share/gocode \
    "$root/usr/lib/go-$go/bin/go" build -ldflags "-s -w" -o "$TOOLS/" k8s.io/apiextensions-apiserver
  # It does not know its own.
  (cd "$WORK/sid/debs" && echo golang-k8s-apiextensions-apiserver-dev_*.deb) | cut -d_ -f2 >"$TOOLS/apiextensions-apiserver.version"
}

mkdir -p "$TOOLS" "$WORK"
[ -x "$TOOLS/pause" ] || build_core
[ -x "$TOOLS/apiextensions-apiserver" ] || build_definitions
rm -rf "$WORK"
