/**
 * Each collective at 64 MB over 4 ranks, over TCP and over shared memory, against torch.distributed gloo: rounds of all
 * three taken in turn, medians over rounds of the slowest rank's time. Where torch cannot be imported its column says
 * skipped. Run alone: node dist/bench/collectives.js [--rounds N] [--ranks N] [--mib N] [--json]
 *
 * Bus bandwidth, as NCCL's tests define it (S bytes, n ranks, t seconds): all-gather, reduce-scatter and all-to-all
 * S/t * (n-1)/n, all-reduce S/t * 2(n-1)/n, broadcast S/t.
 */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../job/median.js";
import type { CommEndpoint } from "../worker/engine/native.js";
import {
  type FromRank,
  OPERATIONS,
  type OperationName,
  type ToRank,
  TRANSPORTS,
} from "./collectives_rank.js";
import { judge } from "./figures.js";
import { nextMessage } from "./next_message.js";
import { TorchRanks } from "./torch_ranks.js";

/** Median seconds; gloo: null where torch cannot be imported. */
export interface CollectiveTimes {
  operation: OperationName;
  tcp: number;
  shm: number;
  gloo: number | null;
}

/** Times over gloo's. */
const LIMITS = { tcp: 0.75, tcpEach: 1, shm: 0.25 };

/** What is measured: seconds of the slowest of its ranks. */
interface Side {
  measure(operation: OperationName): Promise<number>;
}

export async function benchCollectives(
  ranks: number,
  bytes: number,
  rounds: number,
): Promise<CollectiveTimes[]> {
  const folder = mkdtempSync(path.join(os.tmpdir(), "goku-bench-"));
  const ours = await OurRanks.start(folder, ranks, bytes);
  const gloo = await TorchRanks.start("collectives_gloo.py", ranks, [
    path.join(folder, "gloo"),
    String(bytes),
  ]);
  try {
    const sides: [keyof Omit<CollectiveTimes, "operation">, Side][] = TRANSPORTS.map((transport) => [
      transport,
      { measure: (operation) => ours.measure(transport, operation) },
    ]);
    if (gloo !== null) sides.push(["gloo", gloo]);
    const all: CollectiveTimes[] = [];
    for (const operation of OPERATIONS) {
      const seconds = { tcp: [] as number[], shm: [] as number[], gloo: [] as number[] };
      for (let round = -1; round < rounds; round++) {
        for (const [name, side] of sides) {
          const time = await side.measure(operation);
          if (round >= 0) seconds[name].push(time); // the first one warms up
        }
      }
      const { tcp, shm } = { tcp: median(seconds.tcp), shm: median(seconds.shm) };
      all.push({ operation, tcp, shm, gloo: gloo === null ? null : median(seconds.gloo) });
    }
    return all;
  } finally {
    ours.close();
    gloo?.close();
    rmSync(folder, { recursive: true });
  }
}

class OurRanks {
  private readonly children: ChildProcess[];

  private constructor(children: ChildProcess[]) {
    this.children = children;
  }

  static async start(folder: string, count: number, bytes: number): Promise<OurRanks> {
    const module = new URL("./collectives_rank.js", import.meta.url);
    const children = Array.from({ length: count }, (_, i) =>
      fork(module, [path.join(folder, `${i}.control`), path.join(folder, `${i}.progress`)]),
    );
    const ranks = new OurRanks(children);
    const told = await Promise.all(children.map((child) => nextMessage<FromRank>(child)));
    const members: CommEndpoint[] = told.map((message, rank) => ({
      rank,
      nodeId: "bench",
      host: "127.0.0.1",
      port: (message as FromRank & { kind: "listening" }).port,
      pid: children[rank]?.pid ?? 0,
    }));
    await ranks.ask((rank) => ({ kind: "form", rank, members, bytes }));
    return ranks;
  }

  async measure(transport: (typeof TRANSPORTS)[number], operation: OperationName): Promise<number> {
    const answers = await this.ask(() => ({ kind: "measure", transport, operation }));
    return Math.max(...answers.map((answer) => (answer as FromRank & { kind: "measured" }).seconds));
  }

  close(): void {
    for (const child of this.children) child.kill("SIGKILL");
  }

  private ask(message: (rank: number) => ToRank): Promise<FromRank[]> {
    const answers = Promise.all(this.children.map((child) => nextMessage<FromRank>(child)));
    for (const [rank, child] of this.children.entries()) child.send(message(rank));
    return answers;
  }
}

/** Bytes that must cross the busiest line, by payload byte. */
function busFactor(operation: OperationName, ranks: number): number {
  if (operation === "broadcast") return 1;
  return ((operation === "allReduce" ? 2 : 1) * (ranks - 1)) / ranks;
}

function printTable(times: readonly CollectiveTimes[], ranks: number, bytes: number): void {
  const cell = (seconds: number, operation: OperationName): string => {
    const gigabytes = (bytes / seconds / 1e9) * busFactor(operation, ranks);
    return `${(seconds * 1000).toFixed(1).padStart(7)} ms ${gigabytes.toFixed(2).padStart(5)} GB/s`;
  };
  const ratio = (ours: number, theirs: number | null): string =>
    theirs === null ? "skipped" : (ours / theirs).toFixed(2).padStart(7);
  console.log(
    `${ranks} ranks, ${bytes >> 20} MiB; ms and bus bandwidth; ratio: our time to gloo's, smaller is better`,
  );
  console.log(`${"".padEnd(14)}${"tcp".padEnd(22)}${"shm".padEnd(22)}${"gloo".padEnd(22)}tcp/gloo shm/gloo`);
  for (const { operation, tcp, shm, gloo } of times) {
    const columns = [
      cell(tcp, operation),
      cell(shm, operation),
      gloo === null ? "skipped" : cell(gloo, operation),
    ];
    const cells = columns.map((text) => text.padEnd(22)).join("");
    console.log(`${operation.padEnd(14)}${cells}${ratio(tcp, gloo)}  ${ratio(shm, gloo)}`);
  }
  const mean = (of: (row: CollectiveTimes) => number): number =>
    times.reduce((total, row) => total + of(row), 0) / times.length;
  if (times.some(({ gloo }) => gloo === null)) return;
  const means = [mean((row) => row.tcp), mean((row) => row.shm), mean((row) => row.gloo as number)] as const;
  console.log(
    `${"mean time".padEnd(14)}${means.map((s) => `${(s * 1000).toFixed(1).padStart(7)} ms`.padEnd(22)).join("")}` +
      `${ratio(means[0], means[2])}  ${ratio(means[1], means[2])}`,
  );
  const [tcp, shm] = [means[0] / means[2], means[1] / means[2]];
  const worst = Math.max(...times.map((row) => row.tcp / (row.gloo as number)));
  console.log(
    `limits: tcp mean ${LIMITS.tcp} ${judge(tcp, LIMITS.tcp)}, each ${LIMITS.tcpEach} ${judge(worst, LIMITS.tcpEach)}; ` +
      `shm mean ${LIMITS.shm} ${judge(shm, LIMITS.shm)}`,
  );
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "7" },
      ranks: { type: "string", default: "4" },
      mib: { type: "string", default: "64" },
      json: { type: "boolean", default: false },
    },
  });
  const [rounds, ranks, bytes] = [Number(values.rounds), Number(values.ranks), Number(values.mib) * 2 ** 20];
  const times = await benchCollectives(ranks, bytes, rounds);
  if (values.json) console.log(JSON.stringify({ ranks, bytes, times }));
  else printTable(times, ranks, bytes);
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  await main();
