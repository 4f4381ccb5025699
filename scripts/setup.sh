#!/usr/bin/env bash
# Installs what a build needs and this machine lacks. Debian 12 and Ubuntu 22.04 or newer; idempotent and quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

node -e 'const [a, b] = process.versions.node.split(".").map(Number);
  if (a < 20 || (a === 20 && b < 19)) {
    console.error(`Cannot build: Node ${process.versions.node} found, need 20.19 or newer; install it from your distribution or nodejs.org`);
    process.exit(1);
  }' || { command -v node >/dev/null || echo "Cannot build: no node on PATH, need Node 20.19 or newer" >&2; exit 1; }

missing=()
need() { # need PACKAGE TEST...: adds PACKAGE unless the test command succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
need g++ command -v g++
need make command -v make
need cmake command -v cmake
need ninja-build command -v ninja
need libdnnl-dev test -e /usr/include/dnnl.hpp
need libisal-dev test -e /usr/include/isa-l/crc.h
need ffmpeg command -v ffmpeg
need clang-format command -v clang-format
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  echo "Missing packages: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      echo "Cannot install them: not root and sudo asks for a password; run: sudo $install" >&2
      exit 1
    fi
    install="sudo $install"
    sudo apt-get update -qq
  else
    apt-get update -qq
  fi
  DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
  echo "Installed: ${missing[*]}"
fi

# npm leaves this file behind a finished install; older than the lock file means out of date.
if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  echo "npm ci"
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi
