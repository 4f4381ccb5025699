#!/usr/bin/env bash
# Everything that goes through S3, on Ceph's radosgw as well: installs what it lacks of Ceph (260 MB), and each test file starts a
# cluster of its own on loopback. test_s3.sh [NODE_TEST_OPTION...]
set -euo pipefail
cd "$(dirname "$0")/.."
packages=()
for each in ceph-mon ceph-osd radosgw radosgw-admin:radosgw ceph:ceph-common; do
  command -v "${each%%:*}" >/dev/null || packages+=("${each##*:}")
done
if [ ${#packages[@]} -gt 0 ]; then
  root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo -n)
  install=(apt-get install -y -qq --no-install-recommends "${packages[@]}")
  echo "Missing packages: ${packages[*]}"
  if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
    echo "Cannot install them: not root and sudo asks for a password; run: sudo ${install[*]}" >&2
    exit 1
  fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
  # Only its programs are wanted: the tests start them themselves.
  if [ -d /run/systemd/system ]; then "${root[@]}" systemctl disable --now --quiet ceph-crash 2>/dev/null || true; fi
  echo "Installed: ${packages[*]}"
fi
mapfile -t files < <(find dist/test/conformance dist/test/checkpoint dist/test/e2e dist/test/faults -name '*s3*.test.js' -o -name '*ceph*.test.js' | sort)
export GOKU_TEST_CEPH=1
exec node --enable-source-maps --test --test-concurrency=2 "$@" "${files[@]}"
