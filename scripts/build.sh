#!/usr/bin/env bash
# Wire code, native addon, TypeScript, in that order. Each tool redoes only what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
step() { # step NAME COMMAND...: quiet when it works, everything when it fails
  local name=$1 log started=$SECONDS
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "Cannot build: $name failed (above)" >&2
    exit 1
  fi
  grep -E '^(-- )?goku:' "$log" | sed 's/^-- //' || true
  rm -f "$log"
  echo "built $name in $((SECONDS - started)) s"
}
if [ ! -d gen ] || [ -n "$(find proto buf.gen.yaml package-lock.json -newer gen/.stamp 2>/dev/null || echo stale)" ]; then
  step "wire code" npx --no-install buf generate
  touch gen/.stamp
fi
step "native addon" npx --no-install cmake-js compile
step "TypeScript" npx --no-install tsc -p .
step "TypeScript that drives a browser" npx --no-install tsc -p test/web
step "programs" node dist/scripts/build_programs.js
step "web page" node dist/scripts/build_page.js
