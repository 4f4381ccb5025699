import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { stringify } from "yaml";
import type { ControlPlane } from "./control_plane.js";

/** Control groups of version 1 whose children begin without processors or memory. */
const CPUSET = ["cpuset.cpus", "cpuset.mems"];
const GROUPS = "/sys/fs/cgroup";
export const CLUSTER_DNS = "10.96.0.10";

export interface MachineOptions {
  number: number;
  /** Of this cluster's run. */
  folder: string;
  /** Control groups of all machines are below it, such as /goku-cluster-7. */
  group: string;
}

/**
 * A machine of a cluster: kubelet, containerd and kube-proxy in a network and mount namespace of their own on this one, whose kernel,
 * processors, memory and disk it shares with the others (scripts/cluster_machine.sh).
 */
export class Machine {
  readonly name: string;
  readonly folder: string;
  readonly #child: ChildProcess;

  constructor(plane: ControlPlane, { number, folder, group }: MachineOptions) {
    this.name = machineName(number);
    this.folder = path.join(folder, this.name);
    mkdirSync(path.join(this.folder, "net.d"), { recursive: true });
    const cgroupRoot = `${group}/${this.name}`;
    for (const kind of readdirSync(GROUPS)) makeGroup(path.join(GROUPS, kind), cgroupRoot);
    this.#write("containerd.toml", containerdConfig(this.folder));
    this.#write("net.d/10-pods.conflist", JSON.stringify(podNetwork(number)));
    this.#write("kubelet.yaml", stringify(kubeletConfig(plane.caFile, cgroupRoot, this.folder)));
    this.#write("resolv.conf", "");
    this.#write("kubelet.kubeconfig", readFileSync(plane.kubeconfig(this.name), "utf8"));
    this.#write("proxy.kubeconfig", readFileSync(plane.kubeconfig("proxy"), "utf8"));
    const script = ["bash", "scripts/cluster_machine.sh", this.name, `${number}`, this.folder];
    this.#child = spawn("unshare", ["--net", "--mount", "--propagation", "private", ...script], {
      stdio: ["ignore", "inherit", "inherit"],
    });
  }

  /** Throws, with the last of what its programs wrote, where one of them has ended. */
  check(): void {
    if (this.#child.exitCode === null) return;
    throw new Error(`${this.name} ended with ${this.#child.exitCode}\n${this.logs}`);
  }

  get logs(): string {
    const logs = readdirSync(this.folder).filter((file) => file.endsWith(".log"));
    return logs
      .map(
        (file) =>
          `--- ${this.name}: ${file}\n${readFileSync(path.join(this.folder, file)).toString().slice(-3_000)}`,
      )
      .join("\n");
  }

  #write(file: string, text: string): void {
    writeFileSync(path.join(this.folder, file), text);
  }
}

export function machineName(number: number): string {
  return `machine-${number}`;
}

/** The group and those above it, in one hierarchy. */
function makeGroup(hierarchy: string, group: string): void {
  let above = hierarchy;
  for (const part of group.split("/").slice(1)) {
    const here = path.join(above, part);
    mkdirSync(here, { recursive: true });
    if (path.basename(hierarchy) === "cpuset")
      for (const file of CPUSET) writeFileSync(path.join(here, file), readFileSync(path.join(above, file)));
    above = here;
  }
}

function containerdConfig(folder: string): string {
  return `version = 2
root = "${folder}/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/goku-pause:test"
  # Root of a container has no CAP_SYS_RESOURCE, which it takes to be killed later than others.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`;
}

/** A bridge for the pods of each machine; machines know the way to each other's. */
function podNetwork(number: number): object {
  const subnet = `10.244.${number}.0/24`;
  const ipam = { type: "host-local", ranges: [[{ subnet }]], routes: [{ dst: "0.0.0.0/0" }] };
  const bridge = { type: "bridge", bridge: "pods", isGateway: true, hairpinMode: true, ipam };
  return {
    cniVersion: "0.4.0",
    name: "pods",
    plugins: [bridge, { type: "portmap", capabilities: { portMappings: true } }],
  };
}

function kubeletConfig(clientCAFile: string, cgroupRoot: string, folder: string): object {
  return {
    ...{ apiVersion: "kubelet.config.k8s.io/v1beta1", kind: "KubeletConfiguration" },
    authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile } },
    authorization: { mode: "Webhook" },
    ...{ cgroupDriver: "cgroupfs", cgroupRoot, failSwapOn: false },
    ...{ clusterDNS: [CLUSTER_DNS], clusterDomain: "cluster.local" },
    resolvConf: path.join(folder, "resolv.conf"),
    // Of this machine's disk others may take as much as they like.
    evictionHard: { "memory.available": "100Mi", "nodefs.available": "2%", "imagefs.available": "2%" },
    imageGCHighThresholdPercent: 100,
  };
}
