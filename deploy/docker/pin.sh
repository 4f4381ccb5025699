#!/usr/bin/env bash
# Moves what images are made of, in deploy/docker/Dockerfile: pin.sh [SNAPSHOT]
# Every base gets the digest that its tag has now (for another version change the tag first), and APT_SNAPSHOT the packages of SNAPSHOT, such as
# 20261101T000000Z; by default those of this day's first second. Then build, test, and commit what changed.
# Asks the registry by docker buildx, skopeo or crane, whichever is there; pulls nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
FILE=deploy/docker/Dockerfile

snapshot=${1:-$(date -u +%Y%m%dT000000Z)}
[[ $snapshot =~ ^[0-9]{8}T[0-9]{6}Z$ ]] || {
  echo "Cannot pin packages: found SNAPSHOT $snapshot, want a time such as 20261101T000000Z" >&2
  exit 2
}
digest() { # digest NAME:TAG: of the index that holds all platforms
  if docker buildx version >/dev/null 2>&1; then
    docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'
  elif command -v skopeo >/dev/null; then
    skopeo inspect --format '{{.Digest}}' "docker://$1"
  elif command -v crane >/dev/null; then
    crane digest "$1"
  else
    echo "Cannot ask for digests: found neither docker buildx, nor skopeo or crane; apt-get install skopeo" >&2
    exit 1
  fi
}
# All are known before the file is touched.
edits=(-e "s|^ARG APT_SNAPSHOT=.*|ARG APT_SNAPSHOT=$snapshot|")
while IFS='=' read -r name reference; do
  tagged=${reference%%@*}
  found=$(digest "$tagged")
  [[ $found =~ ^sha256:[0-9a-f]{64}$ ]] || {
    echo "Cannot pin $tagged: found the digest \"$found\", want sha256:..." >&2
    exit 1
  }
  edits+=(-e "s|^ARG $name=.*|ARG $name=$tagged@$found|")
done < <(sed -nE 's/^ARG ([A-Z_]+_IMAGE=.+)/\1/p' "$FILE")
sed -i "${edits[@]}" "$FILE"
grep -E '^ARG [A-Z_]+=.' "$FILE" | head -4
