import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import { connectS3 } from "../../checkpoint/storage/s3_client.js";
import { freePorts } from "./etcd_servers.js";
import { S3_KEY, testSettings } from "./s3_settings.js";
import { until } from "./until.js";

/** Why Ceph is not run; false: it is. Its packages are 260 MB, so a target of its own installs and runs them. */
export const CEPH_SKIP: string | false =
  process.env.GOKU_TEST_CEPH === "1" ? false : "make test-s3 runs it on Ceph's radosgw";

/** A daemon ends with the process that started it, however that ends. */
const TIED = ["--pdeathsig", "KILL"] as const;
const call = promisify(execFile);

export type CephDaemon = "monitor" | "osd" | "gateway";

interface Daemon {
  command: readonly string[];
  child: ChildProcess | null;
  log: string;
}

/**
 * Ceph itself, as small as it gets: a monitor, an OSD and the S3 gateway on loopback, with ports and a folder of their own,
 * run by whoever runs the test. The OSD keeps its data in a file, so that what it acknowledged is there after a SIGKILL.
 */
export class CephCluster {
  readonly bucket = "runs";
  readonly #folder = mkdtempSync(path.join(tmpdir(), "goku-ceph-"));
  readonly #daemons: Record<CephDaemon, Daemon>;
  readonly #ports: { monitor: number; gateway: number };

  private constructor([monitor, gateway]: readonly number[]) {
    this.#ports = { monitor: monitor!, gateway: gateway! };
    const daemon = (...command: string[]): Daemon => ({ command, child: null, log: "" });
    this.#daemons = {
      monitor: daemon("ceph-mon", "-f", "-i", "a"),
      osd: daemon("ceph-osd", "-f", "-i", "0"),
      gateway: daemon("radosgw", "-f", "-n", "client.rgw"),
    };
  }

  static async start(): Promise<CephCluster> {
    const cluster = new CephCluster(await freePorts(2));
    try {
      await cluster.#make();
      return cluster;
    } catch (error) {
      const logs = cluster.logs;
      await cluster.stop();
      throw new Error(`Cannot start Ceph: ${(error as Error).message}\n${logs}`, { cause: error });
    }
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#ports.gateway}`;
  }

  /** The last that each daemon said, for the message of a failed test. */
  get logs(): string {
    return Object.entries(this.#daemons)
      .map(([name, { log }]) => `--- ${name}\n${log}`)
      .join("\n");
  }

  /** Starts a daemon, again on what it had; the gateway is waited for until it serves. */
  async run(name: CephDaemon): Promise<void> {
    const daemon = this.#daemons[name];
    // What other OSDs would report; without it the new one waits until the read lease of the old one is over.
    if (name === "osd" && daemon.child !== null)
      await this.#tool("ceph", "osd", "down", "0", "--definitely-dead");
    const args = [...TIED, ...daemon.command, "-c", this.#config];
    const child = spawn("setpriv", args, { stdio: ["ignore", "ignore", "pipe"], env: cleanEnv() });
    daemon.child = child;
    child.stderr!.on("data", (chunk: Buffer) => {
      daemon.log = (daemon.log + chunk.toString()).slice(-4_000);
    });
    if (name === "gateway") await until(() => this.#serves());
  }

  /** SIGSTOP: connections stay open, what comes waits, and nothing is answered. */
  pause(name: CephDaemon): void {
    this.#daemons[name].child!.kill("SIGSTOP");
  }

  resume(name: CephDaemon): void {
    this.#daemons[name].child!.kill("SIGCONT");
  }

  /** Ends a daemon at once, also a paused one. */
  async kill(name: CephDaemon): Promise<void> {
    const { child } = this.#daemons[name];
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** From now on each message to the OSD waits so long before it is looked at; 0: none does. */
  async slowOsd(seconds: number): Promise<void> {
    await this.#setOsd("osd_debug_inject_dispatch_delay_duration", seconds);
    await this.#setOsd("osd_debug_inject_dispatch_delay_probability", seconds > 0 ? 1 : 0);
  }

  /** What the gateway does by itself two hours after data was deleted: gives its space back. */
  async collectGarbage(): Promise<void> {
    await this.#tool("radosgw-admin", "gc", "process", "--include-all");
  }

  /** Ends all daemons, also stopped ones, and removes their data. */
  async stop(): Promise<void> {
    for (const name of ["gateway", "osd", "monitor"] as const) await this.kill(name);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #config(): string {
    return path.join(this.#folder, "ceph.conf");
  }

  async #make(): Promise<void> {
    const [cluster, osd] = [randomUUID(), randomUUID()];
    const address = `v2:127.0.0.1:${this.#ports.monitor}`;
    writeFileSync(this.#config, configText(this.#folder, { cluster, address, port: this.#ports.gateway }));
    writeFileSync(path.join(this.#folder, "keyring"), "");
    for (const name of ["mon", "osd"]) mkdirSync(path.join(this.#folder, name));
    const map = path.join(this.#folder, "monmap");
    await this.#tool("monmaptool", "--create", "--fsid", cluster, "--addv", "a", `[${address}]`, map);
    await this.#tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", map);
    await this.run("monitor");
    await this.#tool("ceph", "osd", "new", osd);
    await this.#tool("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd);
    await this.run("osd");
    const user = ["--uid", "test", "--display-name", "test"];
    const key = ["--access-key", S3_KEY.id, "--secret", S3_KEY.secret];
    await this.#tool("radosgw-admin", "user", "create", ...user, ...key);
    await this.run("gateway");
    const s3 = await connectS3(testSettings(this.endpoint));
    await s3.createBucket({ Bucket: this.bucket });
  }

  async #tool(command: string, ...args: string[]): Promise<void> {
    await call(command, [...args, "-c", this.#config], { env: cleanEnv() });
  }

  /** By the OSD's own socket, as `ceph daemon` does, without Python's start. */
  async #setOsd(option: string, value: number): Promise<void> {
    const socket = connect(path.join(this.#folder, "osd.sock"));
    socket.write(`${JSON.stringify({ prefix: "config set", var: option, val: [`${value}`] })}\0`);
    const answer = await text(socket);
    if (!answer.includes("success")) throw new Error(`The OSD did not set ${option}: ${answer}`);
  }

  async #serves(): Promise<boolean> {
    const { child, log } = this.#daemons.gateway;
    if (child!.exitCode !== null) throw new Error(`radosgw ended: ${log}`);
    return fetch(this.endpoint).then(
      () => true,
      () => false,
    );
  }
}

/** One copy of everything and few placement groups. Nothing is authenticated but S3's own requests. */
function configText(
  folder: string,
  { cluster, address, port }: { cluster: string; address: string; port: number },
): string {
  return `[global]
fsid = ${cluster}
mon host = ${address}
auth cluster required = none
auth service required = none
auth client required = none
keyring = ${folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# A read lease of 600 s. An OSD without others that is stopped for longer than its lease, by default 16 s, may leave requests
# unanswered until it is started again.
osd pool default read lease ratio = 30
# A pool is agreed upon at once, not after a second each.
paxos propose interval = 0.05
paxos min wait = 0.01
admin socket =
run dir = ${folder}
crash dir = ${folder}
log to file = false
log to stderr = false
err to stderr = true
[mon]
mon data = ${folder}/mon
[osd]
osd data = ${folder}/osd
admin socket = ${folder}/osd.sock
osd objectstore = bluestore
# A sparse file.
bluestore block size = 4294967296
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:${port}
# Its default, an encrypted connection, needs keys.
ms mon client mode = crc
`;
}

/** No CEPH_* of the person who runs the tests. */
function cleanEnv(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CEPH_")));
}
