#!/usr/bin/env bash
# cluster_machine.sh NAME NUMBER FOLDER: a machine of a cluster: containerd, kubelet and kube-proxy, in the network and mount namespaces
# that it is started in (test/support/kube/machine.ts). FOLDER holds their configuration, and takes what they keep. Process 1 is in the
# network of the control plane, where the bridge `machines` is. Ends when one of the three does.
set -euo pipefail
name=$1 number=$2 folder=$3
tools=$PWD/build/kubernetes

ip link set lo up
ip link add eth0 type veth peer name "$name" netns 1
nsenter --target 1 --net ip link set "$name" master machines up
ip address add "172.30.0.$((10 + number))/24" dev eth0
ip link set eth0 up
ip route add default via 172.30.0.1
nsenter --target 1 --net ip route add "10.244.$number.0/24" via "172.30.0.$((10 + number))"

# Of this machine alone: what programs keep below these is told from another machine's by nothing.
mkdir -p "$folder"/{log,cni,kernel,kubelet,containerd} /var/lib/cni
mount -t tmpfs tmpfs /run
mount --bind "$folder/log" /var/log
mount --bind "$folder/cni" /var/lib/cni
mount --make-rshared /

# Settings of a network are its namespace's. These others a kubelet sets for the whole kernel, unless they are as it wants them: so it
# shall find them so, and this machine keeps its own.
for setting in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables; do echo 1 >"/proc/sys/$setting"; done
while read -r setting value; do
  echo "$value" >"$folder/kernel/${setting//\//.}"
  mount --bind "$folder/kernel/${setting//\//.}" "/proc/sys/$setting"
done <<<"vm/overcommit_memory 1
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000"

containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
for _ in $(seq 100); do
  if [ -S /run/containerd/containerd.sock ]; then break; fi
  sleep 0.1
done
for image in build/cluster/images/*.tar; do ctr --namespace k8s.io images import "$image" >>"$folder/images.log" 2>&1; done
"$tools/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubelet.kubeconfig" --root-dir="$folder/kubelet" \
  --cert-dir="$folder/kubelet/pki" --hostname-override="$name" --node-ip="172.30.0.$((10 + number))" \
  --container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock >"$folder/kubelet.log" 2>&1 &
# The table of connections is the whole kernel's, and kept as it is.
"$tools/kube-proxy" --kubeconfig="$folder/proxy.kubeconfig" --hostname-override="$name" --cluster-cidr=10.244.0.0/16 \
  --proxy-mode=iptables --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
  >"$folder/kube-proxy.log" 2>&1 &
wait -n
exit 1
