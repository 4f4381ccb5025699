#!/bin/sh
# apt.sh SNAPSHOT PACKAGE...: installs and leaves no lists. SNAPSHOT, such as 20261101T000000Z, takes packages as they were
# then, from snapshot.debian.org or snapshot.ubuntu.com, so that a build is repeated exactly; none: as they are, from where the base takes them.
# By plain HTTP, since slim bases know no CA; apt checks the archives' signatures.
set -eu
snapshot=$1
shift
if [ "$snapshot" != none ]; then
  . /etc/os-release
  rm -f /etc/apt/sources.list.d/* # those of vendors, too: nothing is asked that is not of that time
  case $ID in
    debian)
      for suite in "debian $VERSION_CODENAME" "debian $VERSION_CODENAME-updates" "debian-security $VERSION_CODENAME-security"; do
        echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/${suite% *}/$snapshot ${suite#* } main"
      done > /etc/apt/sources.list
      ;;
    ubuntu) # oneDNN, ISA-L and ffmpeg are in universe
      for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-updates" "$VERSION_CODENAME-security"; do
        echo "deb [check-valid-until=no] http://snapshot.ubuntu.com/ubuntu/$snapshot $suite main universe"
      done > /etc/apt/sources.list
      ;;
    *)
      echo "Cannot take packages of $snapshot: found $ID, want debian or ubuntu, whose snapshots are known; set APT_SNAPSHOT=none" >&2
      exit 1
      ;;
  esac
fi
# Snapshots are slow, and cut connections off.
apt-get update -qq -o Acquire::Retries=5
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Acquire::Retries=5 "$@" > /dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
