/** Parent side of the collectives' tests: starts rank processes, tells them what to do, watches their pages. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { loadNative } from "../../worker/engine/load_native.js";
import { CONTROL, PAGE_BYTES, PROGRESS } from "../../worker/pages.js";
import { statOf } from "../../worker/program/process_stat.js";
import type { Command, MemberSpec, OperationSpec, RankError, Reply } from "./collectives_rank.js";

const native = loadNative();
const helper = fileURLToPath(new URL("./collectives_rank.js", import.meta.url));

export type Outcome<T> = { value: T; error: null } | { value: null; error: RankError };
export interface GroupSpec {
  name: string;
  generation: number;
  /** World ranks, in member order. */
  members: readonly number[];
  /** Node of each member; equal ids share memory. */
  nodes: readonly string[];
  transport?: "auto" | "tcp";
  timeoutMs?: number;
  job?: string;
  /** What the rank processes call it, where its name is taken there. */
  handle?: string;
}

export class Rank {
  readonly process: ChildProcess;
  readonly control: Uint8Array;
  readonly progress: Uint8Array;
  port = 0;
  #next = 1;
  #waiting = new Map<number, (reply: Reply) => void>();

  constructor(folder: string, index: number) {
    const pages = [`${index}.control`, `${index}.progress`].map((name) => path.join(folder, name));
    this.control = native.pageMap(pages[0]!, PAGE_BYTES);
    this.progress = native.pageMap(pages[1]!, PAGE_BYTES);
    this.process = fork(helper, pages, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.process.on("message", (reply: Reply) => {
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    });
    this.process.on("exit", () => {
      for (const [id, settle] of this.#waiting) {
        settle({
          id,
          error: { code: "EXITED", peer: null, operation: null, message: "the rank process has ended" },
        });
      }
      this.#waiting.clear();
    });
  }

  async up(): Promise<void> {
    await new Promise<Reply>((settle) => this.#waiting.set(0, settle));
    const { port } = (await this.do({ kind: "listen" })) as { port: number };
    this.port = port;
  }

  /** The outcome of one command, error or not. */
  async tell<T>(command: Command): Promise<Outcome<T>> {
    const id = this.#next++;
    const reply = await new Promise<Reply>((settle) => {
      this.#waiting.set(id, settle);
      this.process.send({ id, command });
    });
    return "error" in reply ? { value: null, error: reply.error } : { value: reply.value as T, error: null };
  }

  /** The value of one command that must succeed. */
  async do<T>(command: Command): Promise<T> {
    const { value, error } = await this.tell<T>(command);
    if (error !== null) throw new Error(`${command.kind}: ${error.code} ${error.message}`);
    return value as T;
  }

  progressWord(offset: (typeof PROGRESS)["collectiveEntered" | "collectiveCompleted"]): bigint {
    return view(this.progress).getBigUint64(offset, true);
  }

  /** Resolves when the rank's native thread has entered its n-th collective of the generation. */
  async entered(n: number): Promise<void> {
    while (this.progressWord(PROGRESS.collectiveEntered) < BigInt(n)) await setTimeout(1);
  }

  /** Resolves when none of its threads has anything left to do. */
  async asleep(): Promise<void> {
    const threads = `/proc/${this.process.pid}/task`;
    const isAsleep = (thread: string) => statOf(Number(thread))?.state === "S";
    while (!readdirSync(threads).every(isAsleep)) await setTimeout(1);
  }

  /** Sets the abort word as an agent does: the culprit first. */
  abortGeneration(generation: number, culprit: number): void {
    view(this.control).setInt32(CONTROL.abortPeer, culprit, true);
    view(this.control).setBigUint64(CONTROL.abortGeneration, BigInt(generation), true);
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const exited = once(this.process, "exit");
    if (this.process.exitCode === null && this.process.signalCode === null) {
      this.process.kill(signal);
      await exited;
    }
  }
}

function handleOf(group: GroupSpec): string {
  return group.handle ?? group.name;
}

export function view(page: Uint8Array): DataView {
  return new DataView(page.buffer, page.byteOffset, page.byteLength);
}

export class Ranks {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), "goku-comm-"));
  readonly ranks: Rank[] = [];

  static async start(count: number): Promise<Ranks> {
    const started = new Ranks();
    for (let i = 0; i < count; i++) await started.add();
    return started;
  }

  /** One more process; returns its index. */
  async add(): Promise<number> {
    const rank = new Rank(this.folder, this.ranks.length);
    this.ranks.push(rank);
    await rank.up();
    return this.ranks.length - 1;
  }

  endpoints(group: GroupSpec): MemberSpec[] {
    return group.members.map((rank, i) => ({
      rank,
      nodeId: group.nodes[i]!,
      host: "127.0.0.1",
      port: this.ranks[rank]!.port,
      pid: this.ranks[rank]!.process.pid!,
    }));
  }

  /** commCreate on one member. */
  join(group: GroupSpec, rank: number): Promise<Outcome<null>> {
    return this.ranks[rank]!.tell<null>({
      kind: "create",
      group: handleOf(group),
      options: {
        name: group.name,
        job: group.job ?? "test",
        generation: String(group.generation),
        rank: group.members.indexOf(rank),
        members: this.endpoints(group),
        timeoutMs: group.timeoutMs ?? 20_000,
        reachMs: 20_000,
        transport: group.transport ?? "auto",
      },
    });
  }

  async form(group: GroupSpec): Promise<void> {
    const outcomes = await Promise.all(group.members.map((rank) => this.join(group, rank)));
    for (const { error } of outcomes) if (error !== null) throw new Error(`${error.code} ${error.message}`);
  }

  /** The same operations on every member; digests of the results in member order. */
  run(group: GroupSpec, operations: OperationSpec[]): Promise<string[]> {
    return Promise.all(
      group.members.map((rank) =>
        this.ranks[rank]!.do<string>({ kind: "run", group: handleOf(group), operations }),
      ),
    );
  }

  runOn(group: GroupSpec, rank: number, operation: OperationSpec): Promise<Outcome<string>> {
    return this.ranks[rank]!.tell<string>({ kind: "run", group: handleOf(group), operations: [operation] });
  }

  async close(group: GroupSpec): Promise<void> {
    await Promise.all(
      group.members.map((rank) => this.ranks[rank]!.do({ kind: "close", group: handleOf(group) })),
    );
  }

  async stop(): Promise<void> {
    await Promise.all(this.ranks.map((rank) => rank.kill()));
    rmSync(this.folder, { recursive: true });
  }
}
