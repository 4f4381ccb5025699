import { type ChildProcess, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import type { ControlPlane } from "./control_plane.js";
import { CLUSTER_DNS } from "./machine.js";
import { applyAll } from "./test_nodes.js";

const LOOK_MS = 500;

interface Service {
  metadata: { name: string; namespace: string };
  spec: { clusterIP?: string; publishNotReadyAddresses?: boolean };
}
interface Address {
  ip: string;
  hostname?: string;
}
interface Endpoints {
  metadata: { name: string; namespace: string };
  subsets?: { addresses?: Address[]; notReadyAddresses?: Address[] }[];
}

/**
 * The names of Services and of the pods behind those without an address, as Kubernetes lays down for a cluster's DNS, answered by
 * dnsmasq, which reads them from a file that is written anew when Services or Endpoints have changed. Behind the Service kube-dns.
 */
export class ClusterDns {
  readonly #plane: ControlPlane;
  readonly #file: string;
  readonly #child: ChildProcess;
  #written = "";
  #stopped = false;
  #running: Promise<void> = Promise.resolve();

  private constructor(plane: ControlPlane, folder: string, address: string) {
    this.#plane = plane;
    this.#file = path.join(folder, "hosts");
    writeFileSync(this.#file, "");
    const answers = [
      "--local=/cluster.local/",
      `--addn-hosts=${this.#file}`,
      "--no-hosts",
      "--no-resolv",
      "--no-negcache",
    ];
    const listens = [`--listen-address=${address}`, "--bind-interfaces", "--user=root", "--pid-file"];
    const args = [
      "--pdeathsig",
      "KILL",
      "dnsmasq",
      "--keep-in-foreground",
      "--conf-file=/dev/null",
      ...answers,
      ...listens,
    ];
    this.#child = spawn("setpriv", args, { stdio: ["ignore", "ignore", "inherit"] });
  }

  static async start(plane: ControlPlane, folder: string, address: string): Promise<ClusterDns> {
    const dns = new ClusterDns(plane, folder, address);
    const ports = ["UDP", "TCP"].map((protocol) => ({ name: protocol.toLowerCase(), protocol, port: 53 }));
    const metadata = { name: "kube-dns", namespace: "kube-system" };
    await applyAll(plane, [
      { apiVersion: "v1", kind: "Service", metadata, spec: { clusterIP: CLUSTER_DNS, ports } },
      { apiVersion: "v1", kind: "Endpoints", metadata, subsets: [{ addresses: [{ ip: address }], ports }] },
    ]);
    dns.#running = dns.#run();
    return dns;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#child.kill("SIGKILL");
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const [services, endpoints] = await Promise.all([
        this.#plane.ask<{ items: Service[] }>("GET", "/api/v1/services"),
        this.#plane.ask<{ items: Endpoints[] }>("GET", "/api/v1/endpoints"),
      ]);
      const text = hosts(services.items, endpoints.items);
      if (text !== this.#written) {
        writeFileSync(this.#file, text);
        this.#child.kill("SIGHUP");
        this.#written = text;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }
}

/** Lines of a hosts file: addresses of Services; without one, those of the pods, each by its own name as well where it has one. */
export function hosts(services: readonly Service[], endpoints: readonly Endpoints[]): string {
  const lines: string[] = [];
  for (const { metadata, spec } of services) {
    const name = `${metadata.name}.${metadata.namespace}.svc.cluster.local`;
    if (spec.clusterIP === undefined) continue;
    if (spec.clusterIP !== "None") {
      lines.push(`${spec.clusterIP} ${name}`);
      continue;
    }
    const behind = endpoints.find(
      ({ metadata: of }) => of.name === metadata.name && of.namespace === metadata.namespace,
    );
    for (const { addresses = [], notReadyAddresses = [] } of behind?.subsets ?? [])
      for (const { ip, hostname } of [
        ...addresses,
        ...(spec.publishNotReadyAddresses ? notReadyAddresses : []),
      ])
        lines.push(`${ip} ${name}${hostname === undefined ? "" : ` ${hostname}.${name}`}`);
  }
  return `${lines.sort().join("\n")}\n`;
}
