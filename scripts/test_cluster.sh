#!/usr/bin/env bash
# The suite for a whole cluster, on one of two machines that are namespaces of this one: test_cluster.sh [NODE_TEST_OPTION...]
# Kubelets, containerd and kube-proxy of Debian's packages and sources, our images, a network of its own. All processes, mounts, networks
# and rules are of namespaces that end with this script; control groups and files it removes. docs/decisions/035-a-cluster-on-one-machine.md
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
  local count
  count=$(env -u GOKU_TEST_KUBECONFIG node --test dist/test/e2e/kubernetes.test.js | sed -nE 's/^(#|ℹ) skipped //p')
  echo "SKIP ($1): $count tests on a whole cluster, each with two kinds of checkpoints"
  exit 0
}
[ "$(id -u)" -eq 0 ] || skip "not root, which kubelets have to be"
[ -d /sys/fs/cgroup/memory ] || skip "no control groups of version 1 in /sys/fs/cgroup, which a kubelet of 1.20 wants"
packages=()
for each in containerd runc buildah debootstrap iptables conntrack dnsmasq:dnsmasq-base; do
  command -v "${each%%:*}" >/dev/null || packages+=("${each##*:}")
done
[ -x /usr/lib/cni/bridge ] || packages+=(containernetworking-plugins)
if [ ${#packages[@]} -gt 0 ]; then
  echo "Missing packages: ${packages[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  # Only its programs are wanted: each machine starts its own.
  if [ -d /run/systemd/system ]; then systemctl disable --now --quiet containerd 2>/dev/null || true; fi
fi
bash scripts/kubernetes_control_plane.sh
bash scripts/cluster_images.sh

export GOKU_TEST_KUBERNETES=build/kubernetes GOKU_CLUSTER_GROUP=/goku-cluster-$$
GOKU_CLUSTER_FOLDER=$(mktemp -d "$PWD/build/cluster/run.XXXX")
export GOKU_CLUSTER_FOLDER
cluster=
clean() {
  # It waits for its child, and ends it when it is ended itself, by nothing less than this.
  if [ -n "$cluster" ]; then kill -KILL "$cluster" 2>/dev/null || true; fi
  # A group goes once the last process of it has.
  for _ in $(seq 50); do
    find /sys/fs/cgroup/*"$GOKU_CLUSTER_GROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
    compgen -G "/sys/fs/cgroup/*$GOKU_CLUSTER_GROUP" >/dev/null || break
    sleep 0.2
  done
  rm -rf "$GOKU_CLUSTER_FOLDER"
}
trap clean EXIT
trap 'exit 130' INT TERM
# Process 1 takes in what containers leave behind, and all end with it. The network has nothing but itself.
unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private bash -c '
  set -e
  ip link set lo up
  ip link add machines type bridge
  ip address add 172.30.0.1/24 dev machines
  ip link set machines up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  node --enable-source-maps dist/scripts/test_cluster.js "$@" || exit $?
' test_cluster "$@" &
cluster=$!
wait "$cluster"
