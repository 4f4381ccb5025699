/** A collective that was tried in a group of nodes. */
export interface PairTrial {
  members: readonly string[];
  /** It gave what it should, and was not slow. */
  ok: boolean;
}

export type PairPlan =
  /** Groups that have no node in common, to be tried at once. */
  | { kind: "try"; groups: string[][] }
  | {
      kind: "done";
      /** Failed with two good nodes, or with all that there are, and never succeeded. */
      bad: string[];
      /** Never succeeded, with too few good nodes to say whose fault that is. */
      suspect: string[];
      /** Failed groups all of whose members succeeded with others: what lies between them is at fault. */
      badLinks: string[][];
    };

/** Good nodes with which a bad one must have failed: with one alone it may be the way between the two. */
const WITNESS_COUNT = 2;
/** Waves in which nobody succeeded, after which no more are tried. */
const BARREN_WAVES_MAX = 6;

/**
 * Which node it is that collectives fail with. Round 1: neighbours in pairs, an odd one joins a triple. Round 2: each node
 * that has not succeeded yet, with one that has; where nobody has, with others' partners, until somebody does. Called with
 * all trials so far until it is done. Pure.
 */
export function planPairs(nodes: readonly string[], trials: readonly PairTrial[]): PairPlan {
  if (nodes.length < 2) return { kind: "done", bad: [], suspect: [], badLinks: [] };
  const present = new Set(nodes);
  const known = trials.filter(({ members }) => members.every((member) => present.has(member)));
  if (known.length === 0) return { kind: "try", groups: neighbours(nodes) };
  const good = new Set(known.flatMap(({ members, ok }) => (ok ? members : [])));
  const failed = known.filter(({ ok }) => !ok).map(({ members }) => members);
  const witnesses = (node: string) =>
    nodes.filter((other) => good.has(other) && hasPair(failed, node, other));
  const isBad = (node: string) =>
    !good.has(node) && good.size > 0 && witnesses(node).length >= Math.min(WITNESS_COUNT, good.size);
  const open = nodes.filter((node) => !good.has(node) && !isBad(node));
  const groups = good.size > 0 ? withGood(open, nodes, { good, failed }) : amongOpen(open, failed);
  if (groups.length > 0) return { kind: "try", groups };
  const bad = nodes.filter(isBad);
  const badLinks = failed.filter((members) => members.length === 2 && members.every((m) => good.has(m)));
  return { kind: "done", bad, suspect: open, badLinks: badLinks.map((members) => [...members]) };
}

function neighbours(nodes: readonly string[]): string[][] {
  const groups: string[][] = [];
  for (let i = 0; i + 1 < nodes.length; i += 2) groups.push([nodes[i]!, nodes[i + 1]!]);
  if (nodes.length % 2 === 1) groups.at(-1)!.push(nodes.at(-1)!);
  return groups;
}

function hasPair(failed: readonly (readonly string[])[], a: string, b: string): boolean {
  return failed.some((members) => members.length === 2 && members.includes(a) && members.includes(b));
}

/** Each open node with a good one that it has not been tried with; each good one once. */
function withGood(
  open: readonly string[],
  nodes: readonly string[],
  { good, failed }: { good: ReadonlySet<string>; failed: readonly (readonly string[])[] },
): string[][] {
  const free = new Set(nodes.filter((node) => good.has(node)));
  const groups: string[][] = [];
  for (const node of open) {
    const helper = [...free].find((other) => !hasPair(failed, node, other));
    if (helper === undefined) continue;
    free.delete(helper);
    groups.push([node, helper]);
  }
  return groups;
}

/** Nobody has succeeded: pairs that have not been tried, each node at most once. */
function amongOpen(open: readonly string[], failed: readonly (readonly string[])[]): string[][] {
  const waves = Math.max(...open.map((node) => failed.filter((members) => members.includes(node)).length));
  if (waves >= BARREN_WAVES_MAX) return [];
  const free = [...open];
  const groups: string[][] = [];
  for (let node = free.shift(); node !== undefined; node = free.shift()) {
    const at = free.findIndex((other) => !hasPair(failed, node!, other));
    if (at >= 0) groups.push([node, ...free.splice(at, 1)]);
  }
  return groups;
}
