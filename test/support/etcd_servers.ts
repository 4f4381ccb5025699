import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { noop } from "cockatiel";
import { Etcd3, type IOptions, type IStatusResponse } from "etcd3";
import type { EtcdSettings } from "../../controller/store/etcd_settings.js";

/** etcd ends with the process that started it, however that ends. */
const COMMAND = ["setpriv", "--pdeathsig", "KILL", "etcd"] as const;

/** Why etcd cannot run here; false: it can. */
export const ETCD_SKIP: string | false =
  spawnSync(COMMAND[0], [...COMMAND.slice(1), "--version"], { stdio: "ignore" }).status === 0
    ? false
    : "no etcd, see scripts/setup.sh";

export interface EtcdServersOptions {
  members?: number;
  /** Options of every member beside those that tests need. */
  args?: readonly string[];
  /** Options of etcd that make it listen with TLS, and what a client needs to reach it so. */
  tls?: { args: readonly string[]; settings: EtcdSettings["tls"] };
}

interface Member {
  args: string[];
  endpoint: string;
  child: ChildProcess | null;
  log: string;
}

/** etcd itself, one or several members on loopback, with ports and a data folder of their own; tests harm them by name. */
export class EtcdServers {
  readonly #folder = mkdtempSync(path.join(tmpdir(), "goku-etcd-"));
  readonly #tls: EtcdSettings["tls"];
  readonly #clients: Etcd3[] = [];
  #members: Member[] = [];

  private constructor(tls: EtcdSettings["tls"]) {
    this.#tls = tls;
  }

  static async start({ members = 1, args = [], tls }: EtcdServersOptions = {}): Promise<EtcdServers> {
    const servers = new EtcdServers(tls?.settings ?? null);
    try {
      const ports = await freePorts(2 * members);
      const scheme = tls === undefined ? "http" : "https";
      const client = (i: number) => `127.0.0.1:${ports[2 * i]}`;
      const peer = (i: number) => `http://127.0.0.1:${ports[2 * i + 1]}`;
      const cluster = Array.from({ length: members }, (_, i) => `m${i}=${peer(i)}`).join(",");
      servers.#members = Array.from({ length: members }, (_, i) => ({
        endpoint: client(i),
        child: null,
        log: "",
        args: [
          ...["--name", `m${i}`, "--data-dir", path.join(servers.#folder, `m${i}`)],
          ...["--listen-client-urls", `${scheme}://${client(i)}`],
          ...["--advertise-client-urls", `${scheme}://${client(i)}`],
          ...["--listen-peer-urls", peer(i), "--initial-advertise-peer-urls", peer(i)],
          ...["--initial-cluster", cluster, "--log-level", "warn", "--logger", "zap"],
          ...(tls?.args ?? []),
          ...args,
        ],
      }));
      for (let i = 0; i < members; i++) servers.run(i);
      await servers.ready();
      return servers;
    } catch (error) {
      await servers.stop();
      throw error;
    }
  }

  get endpoints(): string[] {
    return this.#members.map(({ endpoint }) => endpoint);
  }

  settings(more: Partial<EtcdSettings> = {}): EtcdSettings {
    return { endpoints: this.endpoints, prefix: "", tls: this.#tls, login: null, ...more };
  }

  pid(member: number): number {
    return this.#members[member]!.child!.pid!;
  }

  /** Starts a member, again on what it had. */
  run(index: number): void {
    const member = this.#members[index]!;
    const args = [...COMMAND.slice(1), ...member.args];
    const child = spawn(COMMAND[0], args, { stdio: ["ignore", "ignore", "pipe"], env: cleanEnv() });
    child.stderr!.on("data", (chunk: Buffer) => {
      member.log = (member.log + chunk.toString()).slice(-4_000);
    });
    member.child = child;
  }

  /** Ends a member at once. */
  async kill(index: number): Promise<void> {
    const { child } = this.#members[index]!;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** A client of one member, as plain as it comes; ends with the servers. */
  client(member: number, options: Partial<IOptions> = {}): Etcd3 {
    const client = new Etcd3({
      hosts: `${this.#tls === null ? "http" : "https"}://${this.endpoints[member]!}`,
      ...(this.#tls === null ? {} : { credentials: rootOf(this.#tls) }),
      defaultCallOptions: ({ isStream }) => (isStream ? {} : { deadline: Date.now() + 1_000 }),
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  /** The member that leads, once there is one. */
  async leader(): Promise<number> {
    for (;;) {
      for (const [i, { child }] of this.#members.entries()) {
        if (child === null || child.exitCode !== null || child.signalCode !== null) continue;
        const status = await this.#status(i);
        if (status !== null && status.leader === status.header.member_id) return i;
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Resolves when the members, or one of them, know a leader. */
  async ready(only?: number): Promise<void> {
    for (const [i, { child, log }] of this.#members.entries()) {
      if (only !== undefined && only !== i) continue;
      for (let led = false; !led; ) {
        if (child!.exitCode !== null) throw new Error(`etcd ended: ${log}`);
        const status = await this.#status(i);
        led = status !== null && status.leader !== "0";
        if (!led) await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  async #status(member: number): Promise<IStatusResponse | null> {
    const client = this.client(member, { faultHandling: { host: () => noop, global: noop } });
    try {
      return await client.maintenance.status();
    } catch {
      return null;
    } finally {
      client.close();
    }
  }

  /** Ends all members, also stopped ones, and removes their data. */
  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    await Promise.all(this.#members.map((_, i) => this.kill(i)));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function rootOf({ ca, client }: NonNullable<EtcdSettings["tls"]>) {
  return {
    rootCertificate: ca,
    ...(client === null ? {} : { certChain: client.cert, privateKey: client.key }),
  };
}

/** No ETCD_* of the person who runs the tests. */
function cleanEnv(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("ETCD_")));
}

export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map(async (server) => {
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      return (server.address() as { port: number }).port;
    }),
  );
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
