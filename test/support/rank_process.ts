/**
 * Real rank processes for tests: the parent forks one child per rank, passes on who lives where, and collects results.
 * The child module calls `serveRank`; the parent calls `runRanks`.
 */
import { type ChildProcess, fork } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { loadNative } from "../../worker/engine/load_native.js";
import type { CommEndpoint, Native } from "../../worker/engine/native.js";

type ToRank<Task> = { kind: "task"; rank: number; task: Task } | { kind: "connect"; members: CommEndpoint[] };
type FromRank<Result> =
  | { kind: "ready"; endpoint: CommEndpoint }
  | { kind: "result"; result: Result }
  | { kind: "failed"; message: string };

/** How long the other ranks have to say why they failed, after the first has: the first told is seldom the cause. */
const EXPLAIN_MS = 2_000;

/** Runs the same task on `count` processes; rejects with what every rank said and leaves no process behind. */
export async function runRanks<Task, Result>(module: URL, count: number, task: Task): Promise<Result[]> {
  // As agents start ranks: threads that wait leave the core to other ranks, and those on one device are NCCL's hosts.
  const env = { ...process.env, OMP_WAIT_POLICY: "passive" };
  const children = Array.from({ length: count }, (_, rank) =>
    fork(module, { serialization: "advanced", env: { ...env, NCCL_HOSTID: `test.${rank}` } }),
  );
  try {
    const ranks = children.map((child, rank) => follow<Task, Result>(child, rank, task));
    const members = await Promise.all(ranks.map(({ ready }) => ready));
    for (const child of children) child.send({ kind: "connect", members } satisfies ToRank<Task>);
    const results = ranks.map(({ result }) => result);
    return await Promise.all(results).catch(async () => {
      throw new Error((await failures(results)).join("\n"));
    });
  } finally {
    for (const child of children) child.kill("SIGKILL");
  }
}

async function failures(results: readonly Promise<unknown>[]): Promise<string[]> {
  const messages: string[] = [];
  const told = results.map((result) => result.catch((error: Error) => messages.push(error.message)));
  await Promise.race([Promise.all(told), sleep(EXPLAIN_MS)]);
  return messages;
}

function follow<Task, Result>(child: ChildProcess, rank: number, task: Task) {
  const ready = deferred<CommEndpoint>();
  const result = deferred<Result>();
  const fail = (message: string) => {
    const error = new Error(`rank ${rank}: ${message}`);
    ready.reject(error);
    result.reject(error);
  };
  // Both fail together; whoever awaits first reports it.
  ready.promise.catch(() => {});
  result.promise.catch(() => {});
  child.on("message", (raw) => {
    const message = raw as FromRank<Result>;
    if (message.kind === "ready") ready.resolve(message.endpoint);
    else if (message.kind === "failed") fail(message.message);
    else result.resolve(message.result);
  });
  child.on("exit", (code, signal) => fail(`ended early, exit code ${code}, signal ${signal}`));
  child.on("error", (error) => fail(error.message));
  child.send({ kind: "task", rank, task } satisfies ToRank<Task>);
  return { ready: ready.promise, result: result.promise };
}

/** A promise and its two ends. */
function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

export interface RankPlace {
  native: Native;
  rank: number;
  /** All ranks, in order; "equal nodeId" lets them share memory. */
  members: CommEndpoint[];
}

/** The child's whole life: takes its task, opens its socket, learns its peers, works, reports. */
export function serveRank<Task, Result>(work: (task: Task, place: RankPlace) => Promise<Result>): void {
  const tasks = deferred<{ rank: number; task: Task }>();
  const peers = deferred<CommEndpoint[]>();
  process.on("message", (raw) => {
    const message = raw as ToRank<Task>;
    if (message.kind === "task") tasks.resolve(message);
    else peers.resolve(message.members);
  });
  const send = (message: FromRank<Result>) =>
    new Promise<void>((resolve) => process.send!(message, () => resolve()));
  const serve = async () => {
    const { rank, task } = await tasks.promise;
    const native = loadNative();
    native.threadsSet(1);
    const host = "127.0.0.1";
    const port = native.commListen(host);
    await send({ kind: "ready", endpoint: { rank, nodeId: "test", host, port, pid: process.pid } });
    const result = await work(task, { native, rank, members: await peers.promise });
    native.commUnlisten();
    // Then it waits for the parent to end it: an exit may be told before the last message is read.
    await send({ kind: "result", result });
  };
  serve().catch(async (error: unknown) => {
    await send({
      kind: "failed",
      message: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
    process.exit(1);
  });
}
