import { judgeSlowRanks, ROUNDS_COUNT, type SlowVerdict } from "./judge_slow_ranks.js";
import { type RoundScores, type SectionName, scoreRound } from "./score_round.js";
import type { RankPage, RankTimes } from "./wire.js";

/** Steps of a round at least; each rank counts its own, so that none waits for another's heartbeat. */
export const ROUND_STEPS_MIN = 5;

/** How fast the ranks of one generation are: rounds of a few steps, and what follows from the last of them. */
export interface Pace {
  /** Step that the generation began with; infinite until a rank has told. */
  firstStep: number;
  /** Sums of every rank when the present round began, and now. */
  from: (RankTimes | null)[];
  now: (RankTimes | null)[];
  /** By rank, 1: it has not done the steps of the present round yet; and how many have not. */
  pending: Uint8Array;
  pendingCount: number;
  /** Newest last, with the steps that they cover. */
  rounds: (RoundScores & { stepFrom: number; stepTo: number })[];
  verdict: SlowVerdict | null;
  /** What people were told is slow, by `subjectKey`. */
  told: Map<string, SlowSubject>;
}

/** A rank, or a node of several ranks that are all slow. */
export interface SlowSubject {
  nodeId: string;
  /** Null: the node. */
  rank: number | null;
  ranks: readonly number[];
  /** Of a node the least of its ranks'. */
  slowness: number;
  /** What was seen, for people. */
  evidence: string;
}

export function createPace(worldSize: number): Pace {
  return {
    firstStep: Number.POSITIVE_INFINITY,
    from: new Array<RankTimes | null>(worldSize).fill(null),
    now: new Array<RankTimes | null>(worldSize).fill(null),
    pending: new Uint8Array(worldSize).fill(1),
    pendingCount: worldSize,
    rounds: [],
    verdict: null,
    told: new Map(),
  };
}

/** Takes what a rank tells; true when that ends a round and `verdict` is new. Costs nothing but for the last of a round. */
export function takeTimes(pace: Pace, { rank, step, times }: RankPage): boolean {
  if (times === null) return false;
  pace.now[rank] = times;
  pace.firstStep = Math.min(pace.firstStep, step - times.steps); // a page may show a step that is not in its sums yet
  const from = pace.from[rank] ?? null;
  // The first look at a rank begins its first round; so does a process that started over.
  if (from === null || times.steps < from.steps) {
    pace.from[rank] = times;
    return false;
  }
  if (times.steps - from.steps < ROUND_STEPS_MIN || pace.pending[rank] !== 1) return false;
  pace.pending[rank] = 0;
  pace.pendingCount -= 1;
  if (pace.pendingCount > 0) return false;
  closeRound(pace);
  return true;
}

function closeRound(pace: Pace): void {
  const { from, now, rounds } = pace;
  const deltas = now.map((times, rank) => (times === null ? null : minus(times, from[rank]!)));
  const stepFrom = rounds.at(-1)?.stepTo ?? pace.firstStep + from[0]!.steps;
  rounds.push({ ...scoreRound(deltas), stepFrom, stepTo: pace.firstStep + now[0]!.steps });
  if (rounds.length > ROUNDS_COUNT) rounds.shift();
  pace.from = [...now];
  pace.pending.fill(1);
  pace.pendingCount = pace.pending.length;
  pace.verdict = judgeSlowRanks(rounds, new Set(pace.verdict?.slow));
}

function minus(a: RankTimes, b: RankTimes): RankTimes {
  return {
    steps: a.steps - b.steps,
    work: a.work - b.work,
    forwardUs: a.forwardUs - b.forwardUs,
    backwardUs: a.backwardUs - b.backwardUs,
    optimizerUs: a.optimizerUs - b.optimizerUs,
    dataUs: a.dataUs - b.dataUs,
    waitUs: a.waitUs - b.waitUs,
  };
}

/** What is slow, slowest first: a node where all ranks that are known are, and are several, else the rank. Pure. */
export function slowSubjects(pace: Pace, nodeRanks: ReadonlyMap<string, readonly number[]>): SlowSubject[] {
  const { verdict } = pace;
  if (verdict === null || verdict.slow.length === 0) return [];
  const slow = new Set(verdict.slow);
  const subjects: SlowSubject[] = [];
  for (const [nodeId, ranks] of nodeRanks) {
    const here = ranks.filter((rank) => slow.has(rank));
    if (here.length === 0) continue;
    const known = ranks.filter((rank) => !Number.isNaN(verdict.typical[rank]!));
    const groups = here.length > 1 && here.length === known.length ? [here] : here.map((rank) => [rank]);
    for (const group of groups) {
      const slowness = Math.min(...group.map((rank) => verdict.typical[rank]!));
      const evidence = evidenceText(pace, verdict, group);
      subjects.push({ nodeId, rank: group.length > 1 ? null : group[0]!, ranks: group, slowness, evidence });
    }
  }
  return subjects.sort((a, b) => b.slowness - a.slowness);
}

export function subjectKey({ nodeId, rank }: SlowSubject): string {
  return rank === null ? `node ${nodeId}` : `rank ${rank}`;
}

/** "1.92 times the time of the others for the same work, above 1.10 in 6 of 8 rounds (steps 41 to 97): forward 2.31, ...". */
function evidenceText(pace: Pace, verdict: SlowVerdict, ranks: readonly number[]): string {
  const { rounds } = pace;
  const span = (values: readonly number[]) => {
    const least = Math.min(...values).toFixed(2);
    const most = Math.max(...values).toFixed(2);
    return least === most ? least : `${least} to ${most}`;
  };
  const newest = rounds.at(-1)!;
  const sections = (Object.keys(newest.sections) as SectionName[]).flatMap((name) => {
    const ratios = ranks.map((rank) => newest.sections[name][rank]!).filter(Number.isFinite);
    return ratios.length === 0 ? [] : [`${name} ${span(ratios)}`];
  });
  const typical = span(ranks.map((rank) => verdict.typical[rank]!));
  const count = Math.min(...ranks.map((rank) => verdict.slowRounds[rank]!));
  const steps = `steps ${rounds[0]!.stepFrom + 1} to ${newest.stepTo}`;
  return `${typical} times the time of the others for the same work, above ${verdict.limit.toFixed(2)} in ${count} of ${rounds.length} rounds (${steps}); in the last: ${sections.join(", ")}`;
}
