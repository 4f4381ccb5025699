import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import path from "node:path";
import type { CheckPlace } from "../check_messages.js";
import { type CommEndpoint, type CommId, DTYPE, type Native } from "../engine/native.js";
import { failpoint } from "../failpoints.js";
import { PAGE_BYTES } from "../pages.js";
import type { Finding } from "./finding.js";

/** fp32 numbers that are summed: 4 MiB, more than socket buffers hold. */
const COUNT = 2 ** 20;
const SUM = 0;

export interface PairOptions {
  place: CheckPlace;
  group: bigint;
  /** Of the group, as the controller gave it to each member. */
  secret: string;
  members: readonly CommEndpoint[];
  index: number;
}

/**
 * The engine's own collectives over TCP between the nodes of a small group: connects, then sums whole numbers, whose sum
 * is exact, until the budget is used. Bandwidth is that of the bus, 2 (n - 1) / n * bytes / time, of the fastest round.
 */
export async function checkPair(native: Native, options: PairOptions): Promise<Finding> {
  const { members, index, place, group, secret } = options;
  const names = members.map(({ nodeId }) => nodeId).join(", ");
  const pages = ["abort", "progress"].map((name) => mapPage(native, place, name));
  let comm: CommId | null = null;
  try {
    const timeoutMs = pairTimeoutMs(place.budgetMs);
    comm = await native.commCreate({
      name: "selfcheck",
      job: pairKey(secret),
      generation: group,
      rank: index,
      members,
      abortPage: pages[0]!,
      progressPage: pages[1]!,
      timeoutMs,
      reachMs: timeoutMs,
      transport: "tcp",
    });
    const { rounds, fastestMs, wrong } = sumRounds(native, comm, options);
    if (wrong !== null) return failed(`with ${names}: ${wrong}`);
    const busBytes = ((2 * (members.length - 1)) / members.length) * COUNT * 4;
    const detail = `${rounds} sums of ${(COUNT * 4) / 2 ** 20} MiB over ${names}`;
    return { ok: true, value: busBytes / fastestMs / 1e6, unit: "GB/s", detail };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return failed(`with ${names}: ${code ?? "INTERNAL"}: ${message}`);
  } finally {
    if (comm !== null) native.commClose(comm);
    for (const page of pages) native.pageUnmap(page);
  }
}

/** What members name when they connect. It crosses the network in plain text, and so is not the secret. */
function pairKey(secret: string): string {
  return createHash("sha256").update(`self-check ${secret}`).digest("hex");
}

/** How long a member waits for another. */
export function pairTimeoutMs(budgetMs: number): number {
  return 3_000 + 2 * budgetMs;
}

function failed(detail: string): Finding {
  return { ok: false, value: 0, unit: "GB/s", detail };
}

function mapPage(native: Native, { stateDir }: CheckPlace, name: string): Uint8Array {
  const file = path.join(stateDir, `selfcheck.${process.pid}.${name}`);
  const page = native.pageMap(file, PAGE_BYTES);
  rmSync(file, { force: true });
  return page;
}

/** What member `m` gives at place `i` of round `r`: below 2^16, so that sums over up to 256 members are exact. */
function numberAt(m: number, i: number, r: number): number {
  return Math.imul(i + 1, 2654435761 + 97 * m + r) >>> 16;
}

/** Members agree on the end of the rounds: as many as the first one's time allows, by a sum that the others add 0 to. */
function sumRounds(
  native: Native,
  comm: CommId,
  { members, index, place }: PairOptions,
): { rounds: number; fastestMs: number; wrong: string | null } {
  const buffer = native.tensorAlloc(DTYPE.f32, COUNT);
  const numbers = new Float32Array(COUNT);
  const bytes = new Uint8Array(numbers.buffer);
  const begunMs = performance.now();
  let fastestMs = Number.POSITIVE_INFINITY;
  try {
    for (let round = 0; ; round++) {
      // The last number says that the first member has time for another round.
      for (let i = 0; i < COUNT - 1; i++) numbers[i] = numberAt(index, i, round);
      numbers[COUNT - 1] = index === 0 && performance.now() - begunMs < place.budgetMs ? 1 : 0;
      native.tensorWrite(buffer, 0, bytes);
      const startMs = performance.now();
      native.commWait(native.allReduceStart(comm, buffer, SUM));
      fastestMs = Math.min(fastestMs, performance.now() - startMs);
      native.tensorRead(buffer, 0, bytes);
      if (failpoint("selfcheck.collective") === "flip") bytes[COUNT + 1]! ^= 1;
      const wrong = wrongPlace(numbers, members.length, round);
      const goesOn = numbers[COUNT - 1] === 1;
      if (wrong !== null || !goesOn) return { rounds: round + 1, fastestMs, wrong };
    }
  } finally {
    native.tensorFree(buffer);
  }
}

function wrongPlace(numbers: Float32Array, members: number, round: number): string | null {
  for (let i = 0; i < COUNT - 1; i++) {
    let wanted = 0;
    for (let m = 0; m < members; m++) wanted += numberAt(m, i, round);
    if (numbers[i] !== wanted) return `sum ${round + 1} is ${numbers[i]} at place ${i}, want ${wanted}`;
  }
  return null;
}
