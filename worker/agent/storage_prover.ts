import { mkdir, readdir, rm, rmdir, stat, statfs, unlink, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Logger } from "pino";
import { unlessOver } from "../unless_over.js";
import { pause } from "./pause.js";

/** Between the first looks; they grow rarer. */
const POLL_MS = 20;
const POLL_MS_MAX = 1_000;
/** What others write is seen at once in a file system of this machine; a network's client may believe an old listing for a minute. */
const WAIT_MS_LOCAL = 15_000;
const WAIT_MS_NETWORK = 90_000;
/** A file stays for those that look later, by more than anybody may take for that. */
const LINGER_MS = 120_000;
/** ext, xfs, btrfs, tmpfs, overlay, zfs, f2fs: `f_type` of statfs(2). */
const LOCAL_TYPES = new Set([0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0x2fc12fc1, 0xf2f52010]);

export interface ProofOrder {
  jobId: string;
  generation: bigint;
  /** This node, and the others of the generation. */
  node: string;
  others: readonly string[];
  /** What checkpoint.uri names here. */
  folder: string;
}

export interface ProofFound {
  written: boolean;
  /** Of the others, those whose file was not seen. */
  missing: string[];
  /** Why it could not write or look; null: it could. */
  error: string | null;
}

export interface StorageProverTools {
  /** How long others are looked for; null: by the kind of file system. */
  waitMs: number | null;
  lingerMs: number;
}

/**
 * Shows that a folder is one and the same on all nodes of a generation: each agent writes a small file, named by its node, into
 * a hidden folder of that generation, and looks for those of the others. Beside everything else: nothing waits for it, and a
 * file system that never answers costs a timer. The files go some time after the look, or when the generation is over; of an agent
 * that was killed the next generation's sweep.
 */
export class StorageProver {
  private readonly log: Logger;
  private readonly tools: StorageProverTools;
  private running: { stop: AbortController; ended: Promise<void> } | null = null;

  constructor(log: Logger, tools: Partial<StorageProverTools> = {}) {
    this.log = log;
    this.tools = { waitMs: null, lingerMs: LINGER_MS, ...tools };
  }

  /** Calls back once, unless `end` comes first. */
  begin(order: ProofOrder, found: (proof: ProofFound) => void): void {
    void this.end();
    const stop = new AbortController();
    const ended = this.prove(order, stop.signal, found).catch((error: unknown) => {
      this.log.warn(error, "proof of shared storage");
    });
    this.running = { stop, ended };
  }

  /** The generation is over, or the agent ends. Resolves when its file is gone, or the file system does not answer. */
  async end(): Promise<void> {
    const { running } = this;
    this.running = null;
    running?.stop.abort();
    await running?.ended;
  }

  private async prove(
    order: ProofOrder,
    stop: AbortSignal,
    found: (proof: ProofFound) => void,
  ): Promise<void> {
    const begun = performance.now();
    const place = path.join(order.folder, `.shared-${order.jobId}-g${order.generation}`);
    const own = path.join(place, order.node);
    const over = new AbortController(); // nobody waits for the file system any more
    const limit = setTimeout(() => over.abort(), this.tools.waitMs ?? WAIT_MS_NETWORK);
    const signal = AbortSignal.any([stop, over.signal]);
    let written = false;
    let missing = [...order.others];
    let error: string | null = null;
    try {
      await answered(mkdir(place, { recursive: true }), signal);
      await answered(writeFile(own, `${order.node}\n`), signal);
      // The others may have looked, and taken theirs away, before it was there.
      written = performance.now() - begun < this.tools.lingerMs;
      const waitMs = this.tools.waitMs ?? (await waitMsOf(place, signal));
      for (let pauseMs = POLL_MS; ; pauseMs = Math.min(2 * pauseMs, POLL_MS_MAX)) {
        const names = new Set(await answered(readdir(place), signal));
        missing = order.others.filter((node) => !names.has(node));
        if (missing.length === 0) break;
        if (performance.now() - begun >= waitMs) {
          missing = await answered(unseen(place, missing), signal);
          break;
        }
        await pause(pauseMs, signal);
        if (signal.aborted) break;
      }
    } catch (thrown) {
      error = (thrown as Error).message;
    }
    clearTimeout(limit);
    if (!stop.aborted) found({ written, missing, error });
    const isSilent = over.signal.aborted && error !== null;
    if (isSilent) return; // whatever is asked of it now would wait, too
    await this.sweep(order, stop);
    if (!stop.aborted) await pause(this.tools.lingerMs, stop);
    await unlink(own).catch(() => {});
    await rmdir(place).catch(() => {}); // the last one
  }

  /** What agents of older generations of this job left that were killed. */
  private async sweep({ folder, jobId, generation }: ProofOrder, stop: AbortSignal): Promise<void> {
    if (stop.aborted) return;
    const prefix = `.shared-${jobId}-g`;
    for (const name of await readdir(folder).catch(() => [])) {
      const number = name.startsWith(prefix) ? name.slice(prefix.length) : "";
      if (!/^\d{1,19}$/.test(number) || BigInt(number) >= generation) continue;
      await rm(path.join(folder, name), { recursive: true, force: true }).catch(() => {});
    }
  }
}

/** Of names that a listing lacks those that are not there when asked for: a network's client may believe an old listing. */
async function unseen(place: string, names: readonly string[]): Promise<string[]> {
  const there = await Promise.all(
    names.map((name) =>
      stat(path.join(place, name)).then(
        () => true,
        () => false,
      ),
    ),
  );
  return names.filter((_, i) => !there[i]);
}

async function waitMsOf(folder: string, signal: AbortSignal): Promise<number> {
  const { type } = await answered(statfs(folder), signal);
  return LOCAL_TYPES.has(type) ? WAIT_MS_LOCAL : WAIT_MS_NETWORK;
}

function answered<T>(call: Promise<T>, signal: AbortSignal): Promise<T> {
  return unlessOver(signal, call, () => new Error("the file system does not answer"));
}
