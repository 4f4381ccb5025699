#!/bin/sh
# apt.sh SNAPSHOT PACKAGE...: installs and leaves no lists. SNAPSHOT, such as 20261101T000000Z, takes packages as they were
# then, from snapshot.debian.org or snapshot.ubuntu.com, so that a build is repeated exactly; empty: as they are.
set -eu
snapshot=$1
shift
if [ -n "$snapshot" ]; then
  . /etc/os-release
  rm -f "/etc/apt/sources.list.d/$ID.sources"
  case $ID in
    debian)
      for archive in debian debian-security; do
        suite=$VERSION_CODENAME
        [ "$archive" = debian ] || suite="$suite-security"
        echo "deb [check-valid-until=no] https://snapshot.debian.org/archive/$archive/$snapshot $suite main"
      done > /etc/apt/sources.list
      ;;
    ubuntu) # oneDNN, ISA-L and ffmpeg are in universe
      for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-updates" "$VERSION_CODENAME-security"; do
        echo "deb [check-valid-until=no] https://snapshot.ubuntu.com/ubuntu/$snapshot $suite main universe"
      done > /etc/apt/sources.list
      ;;
    *)
      echo "Cannot take packages of $snapshot: found $ID, want debian or ubuntu, whose snapshots are known; leave APT_SNAPSHOT empty" >&2
      exit 1
      ;;
  esac
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
