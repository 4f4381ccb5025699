import assert from "node:assert/strict";
import { test } from "node:test";
import { type PairPlan, type PairTrial, planPairs } from "../../../controller/core/plan_pairs.js";

/** What is wrong in a fleet: nodes that fail with everybody, and ways from one node to another that are cut. */
interface Faults {
  bad?: readonly string[];
  cuts?: readonly (readonly [from: string, to: string])[];
}

const nodesOf = (count: number) => Array.from({ length: count }, (_, i) => `n${String(i).padStart(2, "0")}`);

/** Tries what is planned until it is done. */
function isolate(
  nodes: readonly string[],
  { bad = [], cuts = [] }: Faults,
): { verdict: Extract<PairPlan, { kind: "done" }>; waves: string[][][] } {
  const trials: PairTrial[] = [];
  const waves: string[][][] = [];
  for (let wave = 0; wave < 20; wave++) {
    const plan = planPairs(nodes, trials);
    if (plan.kind === "done") return { verdict: plan, waves };
    const used = plan.groups.flat();
    assert.equal(new Set(used).size, used.length, "a node is in one group at a time");
    waves.push(plan.groups);
    for (const members of plan.groups) {
      const cut = cuts.some(([from, to]) => members.includes(from) && members.includes(to));
      trials.push({ members, ok: !cut && !members.some((node) => bad.includes(node)) });
    }
  }
  throw new Error("it does not come to an end");
}

test("planPairs() tries neighbours first, an odd one in a triple, and is done when all succeed", () => {
  for (let count = 2; count <= 17; count++) {
    const nodes = nodesOf(count);
    const { verdict, waves } = isolate(nodes, {});
    assert.deepEqual(verdict, { kind: "done", bad: [], suspect: [], badLinks: [] });
    assert.equal(waves.length, 1);
    assert.deepEqual(waves[0]!.flat(), nodes);
    assert.ok(waves[0]!.every(({ length }) => length === 2 || length === 3));
  }
  assert.equal(planPairs(["n00"], []).kind, "done");
  assert.equal(planPairs([], []).kind, "done");
});

test("planPairs() finds any one bad node, in two rounds where there are two pairs", () => {
  for (let count = 3; count <= 17; count++) {
    const nodes = nodesOf(count);
    for (const bad of nodes) {
      const { verdict, waves } = isolate(nodes, { bad: [bad] });
      assert.deepEqual(
        verdict,
        { kind: "done", bad: [bad], suspect: [], badLinks: [] },
        `${bad} of ${count}`,
      );
      if (count % 2 === 0 && count >= 4) assert.equal(waves.length, 2, `${bad} of ${count}`);
    }
  }
});

test("planPairs() finds any two bad nodes where two good ones are left", () => {
  for (let count = 4; count <= 17; count++) {
    const nodes = nodesOf(count);
    for (const [i, first] of nodes.entries()) {
      for (const second of nodes.slice(i + 1)) {
        const { verdict } = isolate(nodes, { bad: [first, second] });
        assert.deepEqual(verdict.bad, [first, second], `${first}, ${second} of ${count}`);
        assert.deepEqual([verdict.suspect, verdict.badLinks], [[], []]);
      }
    }
  }
});

test("planPairs() blames nobody where too few are good to tell", () => {
  const two = isolate(nodesOf(2), { bad: ["n00"] }).verdict;
  assert.deepEqual([two.bad, two.suspect], [[], ["n00", "n01"]]);
  const three = isolate(nodesOf(3), { bad: ["n00", "n02"] }).verdict;
  assert.deepEqual([three.bad, three.suspect], [[], ["n00", "n01", "n02"]]);
  const all = isolate(nodesOf(17), { bad: nodesOf(17) });
  assert.deepEqual([all.verdict.bad, all.verdict.suspect], [[], nodesOf(17)]);
  assert.ok(all.waves.length <= 7, `${all.waves.length} waves`);
});

test("planPairs() blames no node for a way that is cut, in one direction or both, and names it where it met it", () => {
  for (let count = 3; count <= 17; count++) {
    const nodes = nodesOf(count);
    for (const from of nodes) {
      for (const to of nodes) {
        if (from === to) continue;
        const { verdict, waves } = isolate(nodes, { cuts: [[from, to]] });
        const what = `${from} to ${to} of ${count}`;
        assert.deepEqual([verdict.bad, verdict.suspect], [[], []], what);
        const tried = waves
          .flat()
          .some((members) => members.length === 2 && members.includes(from) && members.includes(to));
        assert.deepEqual(
          verdict.badLinks.map((members) => [...members].sort()),
          tried ? [[from, to].sort()] : [],
          what,
        );
      }
    }
  }
});

test("planPairs() finds a node that all others cannot reach, though it reaches them", () => {
  for (let count = 4; count <= 17; count++) {
    const nodes = nodesOf(count);
    for (const deaf of nodes) {
      const cuts = nodes.filter((node) => node !== deaf).map((node) => [node, deaf] as const);
      const { verdict } = isolate(nodes, { cuts });
      assert.deepEqual(
        [verdict.bad, verdict.suspect, verdict.badLinks],
        [[deaf], [], []],
        `${deaf} of ${count}`,
      );
    }
  }
});

test("planPairs() finds a bad node beside a cut way between two others", () => {
  for (let count = 6; count <= 12; count++) {
    const nodes = nodesOf(count);
    for (const bad of nodes) {
      const others = nodes.filter((node) => node !== bad);
      for (const [i, from] of others.entries()) {
        const to = others[(i + 1) % others.length]!;
        const { verdict } = isolate(nodes, { bad: [bad], cuts: [[from, to]] });
        assert.deepEqual([verdict.bad, verdict.suspect], [[bad], []], `${bad}, ${from} to ${to} of ${count}`);
      }
    }
  }
});

test("planPairs() forgets trials of nodes that were lost meanwhile", () => {
  const trials = [
    { members: ["n00", "n01"], ok: false },
    { members: ["n02", "n03"], ok: true },
  ];
  const plan = planPairs(["n00", "n02", "n03"], trials);
  assert.deepEqual(plan, { kind: "try", groups: [["n00", "n02"]] });
});
