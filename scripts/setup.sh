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
need etcd-server command -v etcd
need prometheus command -v promtool
need prometheus-alertmanager command -v amtool
need openssl command -v openssl
need unzip command -v unzip
need iproute2 command -v ip
if [ "$(id -u)" -eq 0 ]; then # its daemons want root, and so does their test: 12 MB
  need slurm-wlm command -v slurmctld
  need munge command -v munged
fi
if [ ! -x /usr/bin/chromium ] && [ ! -x /usr/bin/google-chrome ] && grep -qx ID=debian /etc/os-release; then
  missing+=(chromium) # the page's tests drive it, and are skipped elsewhere: Ubuntu has it as a snap alone
fi
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  root=""
  echo "Missing packages: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      echo "Cannot install them: not root and sudo asks for a password; run: sudo $install" >&2
      exit 1
    fi
    install="sudo $install"
    root="sudo"
    sudo apt-get update -qq
  else
    apt-get update -qq
  fi
  DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
  # Some bring services, on their usual ports: only their programs are wanted, the tests start them themselves.
  quiet() { # quiet PACKAGE SERVICE...
    [[ " ${missing[*]} " == *" $1 "* && -d /run/systemd/system ]] || return 0
    shift
    for service in "$@"; do $root systemctl disable --now --quiet "$service" 2>/dev/null || true; done
  }
  quiet etcd-server etcd
  quiet prometheus prometheus prometheus-node-exporter
  quiet prometheus-alertmanager prometheus-alertmanager
  quiet slurm-wlm slurmctld slurmd
  quiet munge munge
  echo "Installed: ${missing[*]}"
fi

# npm leaves this file behind a finished install; older than the lock file means out of date.
if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  echo "npm ci"
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi

bash scripts/kubectl.sh
