import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chooseRestore,
  type RestoreChoice,
  type RestoreInput,
} from "../../../controller/core/choose_restore.js";
import type { CheckpointEntry, StateName } from "../../../controller/core/contract.js";
import { Layout } from "../../../job/layout.js";

const at = (generation: number, step: number): StateName => ({ generation, step });
const durable = (generation: number, step: number, unusable: string | null = null): CheckpointEntry => ({
  uri: `file:///c/${generation}-${step}`,
  state: at(generation, step),
  bytes: 1,
  seconds: 1,
  committedAtMs: 0,
  unusable,
});
const source = { uri: "file:///old", state: at(3, 70) };

/** Ranks of one shard group on nodes of their own, each with its own snapshots and nobody to read from. */
function oneNodeEach(ranks: readonly StateName[][]): Pick<RestoreInput, "layout" | "rankNodes" | "nodes"> {
  const layout = new Layout({ dp_replicate: 1, dp_shard: ranks.length, sp: 1 });
  const nodes = ranks.map((states, rank) => ({
    nodeId: `n${rank}`,
    serves: false,
    held: states.map((state) => ({ state, rank, layout: layout.toString() })),
  }));
  return { layout, rankNodes: nodes.map(({ nodeId }) => nodeId), nodes };
}

interface Case {
  name: string;
  ranks: StateName[][];
  checkpoints?: CheckpointEntry[];
  resume?: typeof source;
  badSnapshots?: string[];
  badCheckpoints?: string[];
  want: string;
}
const cases: Case[] = [
  {
    name: "takes the newest state that all ranks hold",
    ranks: [
      [at(1, 41), at(1, 42)],
      [at(1, 40), at(1, 41)],
    ],
    want: "snapshot 1-41",
  },
  {
    name: "never combines states of different names",
    ranks: [[at(1, 42)], [at(2, 42)]],
    checkpoints: [durable(1, 30)],
    want: "checkpoint file:///c/1-30",
  },
  {
    name: "orders by generation before step",
    ranks: [
      [at(1, 42), at(2, 31)],
      [at(1, 42), at(2, 31)],
    ],
    want: "snapshot 2-31",
  },
  {
    name: "takes a newer checkpoint over an older snapshot",
    ranks: [[at(1, 12)], [at(1, 12)]],
    checkpoints: [durable(1, 20)],
    want: "checkpoint file:///c/1-20",
  },
  {
    name: "prefers memory when both hold the same state",
    ranks: [[at(1, 20)], [at(1, 20)]],
    checkpoints: [durable(1, 20)],
    want: "snapshot 1-20",
  },
  {
    name: "takes the newest checkpoint when one rank holds nothing",
    ranks: [[at(1, 42)], []],
    checkpoints: [durable(1, 30), durable(1, 20)],
    want: "checkpoint file:///c/1-30",
  },
  {
    name: "passes over a corrupt checkpoint",
    ranks: [[], []],
    checkpoints: [durable(1, 20), durable(1, 30, "flipped byte")],
    want: "checkpoint file:///c/1-20",
  },
  {
    name: "passes over a checkpoint that failed before",
    ranks: [[]],
    checkpoints: [durable(1, 20), durable(1, 30)],
    badCheckpoints: ["file:///c/1-30"],
    want: "checkpoint file:///c/1-20",
  },
  {
    name: "passes over a snapshot that failed before",
    ranks: [
      [at(1, 41), at(1, 42)],
      [at(1, 41), at(1, 42)],
    ],
    badSnapshots: ["1-42"],
    want: "snapshot 1-41",
  },
  {
    name: "resumes from the given checkpoint before its own first",
    ranks: [[], []],
    resume: source,
    want: "checkpoint file:///old",
  },
  {
    name: "prefers what was computed since over the given checkpoint",
    ranks: [[at(5, 71)], [at(5, 71)]],
    resume: source,
    want: "snapshot 5-71",
  },
  { name: "starts a new job from initial values", ranks: [[], []], want: "initial" },
  {
    name: "does not start over when everything durable is lost",
    ranks: [[], []],
    checkpoints: [durable(1, 30, "flipped byte")],
    want: "none",
  },
  {
    name: "does not start over when the given checkpoint is lost",
    ranks: [[]],
    resume: source,
    badCheckpoints: ["file:///old"],
    want: "none",
  },
  {
    name: "counts a state once however often a rank lists it",
    ranks: [[at(1, 9), at(1, 9)], []],
    checkpoints: [durable(1, 5)],
    want: "checkpoint file:///c/1-5",
  },
];

function text(choice: RestoreChoice): string {
  if (choice.kind === "snapshot") return `snapshot ${choice.state.generation}-${choice.state.step}`;
  return choice.kind === "checkpoint" ? `checkpoint ${choice.source.uri}` : choice.kind;
}

for (const { name, ranks, checkpoints, resume, badSnapshots, badCheckpoints, want } of cases) {
  test(`chooseRestore() ${name}`, () => {
    const choice = chooseRestore({
      isGivenUp: () => false,
      ...oneNodeEach(ranks),
      checkpoints: checkpoints ?? [],
      source: resume ?? null,
      excludedSnapshots: new Set(badSnapshots),
      excludedCheckpoints: new Set(badCheckpoints),
    });
    assert.equal(text(choice), want, choice.reason);
  });
}

test("chooseRestore() says why memory was not enough", () => {
  const choice = chooseRestore({
    isGivenUp: () => false,
    ...oneNodeEach([[at(1, 42)], [], [], [at(1, 42)]]),
    checkpoints: [durable(1, 30)],
    source: null,
    excludedSnapshots: new Set(),
    excludedCheckpoints: new Set(),
  });
  assert.equal(
    choice.reason,
    "from checkpoint file:///c/1-30 (step 30 of generation 1): ranks 1, 2 of 4 have no snapshot in memory",
  );
});

/** Members with their snapshots, as "state/rank[@layout]", in the present layout unless told otherwise. */
function members(layout: string, text: Record<string, string>): RestoreInput["nodes"] {
  return Object.entries(text).map(([nodeId, held]) => ({
    nodeId,
    serves: true,
    held: held.split(" ").flatMap((each) => {
      const match = /^(\d+)-(\d+)\/(\d+)(?:@(.+))?$/.exec(each);
      if (match === null) return [];
      const [, generation, step, rank, other] = match;
      return [{ state: at(Number(generation), Number(step)), rank: Number(rank), layout: other ?? layout }];
    }),
  }));
}

interface PeerCase {
  name: string;
  layout: string;
  ranks: string;
  memory: Record<string, string>;
  checkpoints?: CheckpointEntry[];
  badSnapshots?: string[];
  /** How the reason begins. */
  want: string;
}
const peerCases: PeerCase[] = [
  {
    name: "takes what a lost node's ranks have at their keeper",
    layout: "1x4x1",
    ranks: "c c b b",
    memory: { c: "", b: "3-42/2 3-42/3 3-41/2 3-41/3 3-41/0 3-41/1" },
    checkpoints: [durable(3, 40)],
    want: "from memory, step 41 of generation 3: ranks 0, 1 from replicas on b",
  },
  {
    name: "takes the newest state from twins",
    layout: "2x2x1",
    ranks: "a a c c",
    memory: { a: "3-42/0 3-42/1", c: "" },
    want: "from memory, step 42 of generation 3: ranks 2, 3 from twins on a",
  },
  {
    name: "names each place that ranks read from",
    layout: "2x2x1",
    ranks: "a c b d",
    memory: { a: "3-42/0", c: "", b: "3-42/1", d: "" },
    want: "from memory, step 42 of generation 3: rank 1 from replicas on b, rank 2 from twins on a, rank 3 from twins on b",
  },
  {
    name: "does not take for whole what lacks one shard, however many ranks hold the others",
    layout: "2x2x1",
    ranks: "a b c d",
    memory: { a: "3-42/0", b: "3-42/2", c: "3-42/0 3-41/0", d: "3-41/1" },
    want: "from memory, step 41 of generation 3",
  },
  {
    name: "takes a newer checkpoint over an older replica",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-41/0 3-41/1", b: "" },
    checkpoints: [durable(3, 42)],
    want: "from checkpoint file:///c/3-42 (step 42 of generation 3): memory holds only step 41 of generation 3 whole",
  },
  {
    name: "re-partitions what lies in memory in another layout",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-42/0@1x2x2 3-42/1@1x2x2 3-42/2@1x2x2", b: "3-42/3@1x2x2" },
    checkpoints: [durable(3, 40)],
    want: "step 42 of generation 3, re-partitioned from memory of 2 nodes, layout 1x2x2",
  },
  {
    name: "does not combine the parts of a state in two layouts",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-42/0@1x2x2 3-42/1@1x2x2 3-42/0", b: "3-42/3@1x2x2" },
    want: "initial",
  },
  {
    name: "prefers the present layout when both hold the same state",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-42/0@1x1x1 3-42/0", b: "3-42/1" },
    want: "from memory, step 42 of generation 3: the newest state that all 2 ranks hold",
  },
  {
    name: "re-partitions a newer state rather than keep an older one of the present layout",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-42/0@1x1x1 3-41/0", b: "3-41/1" },
    want: "step 42 of generation 3, re-partitioned",
  },
  {
    name: "passes over an excluded state in any layout",
    layout: "1x2x1",
    ranks: "a b",
    memory: { a: "3-42/0@1x1x1 3-42/0 3-41/0", b: "3-42/1 3-41/1" },
    badSnapshots: ["3-42"],
    want: "from memory, step 41 of generation 3",
  },
];
for (const { name, layout, ranks, memory, checkpoints, badSnapshots, want } of peerCases) {
  test(`chooseRestore() ${name}`, () => {
    const { reason } = chooseRestore({
      isGivenUp: () => false,
      layout: Layout.parse(layout),
      rankNodes: ranks.split(" "),
      nodes: members(layout, memory),
      checkpoints: checkpoints ?? [],
      source: null,
      excludedSnapshots: new Set(badSnapshots),
      excludedCheckpoints: new Set(),
    });
    assert.equal(reason.slice(0, want.length), want);
  });
}

test("chooseRestore() counts on nobody whom the others cannot reach", () => {
  const layout = Layout.parse("1x2x1");
  const nodes = members("1x2x1", { a: "3-42/0 3-42/1", b: "" });
  const [a, b] = nodes.map((node) => ({ ...node, serves: false }));
  const common = { checkpoints: [durable(3, 40)], source: null, excludedSnapshots: new Set<string>() };
  const choose = (rankNodes: string[], members: RestoreInput["nodes"]) =>
    text(
      chooseRestore({
        layout,
        rankNodes,
        nodes: members,
        ...common,
        isGivenUp: () => false,
        excludedCheckpoints: new Set(),
      }),
    );
  assert.equal(choose(["a", "b"], nodes), "snapshot 3-42");
  assert.equal(choose(["a", "b"], [a!, b!]), "checkpoint file:///c/3-40");
  assert.equal(choose(["a", "a"], [a!]), "snapshot 3-42", "who holds all reads nowhere");
});

test("chooseRestore() sends the durable copy of the very state along, where one can be read", () => {
  const layout = Layout.parse("1x1x1");
  const durableOf = (checkpoints: CheckpointEntry[], resume: typeof source | null, bad: string[] = []) => {
    const choice = chooseRestore({
      isGivenUp: () => false,
      layout,
      rankNodes: ["a"],
      nodes: members("1x1x1", { a: "3-70/0" }),
      checkpoints,
      source: resume,
      excludedSnapshots: new Set(),
      excludedCheckpoints: new Set(bad),
    });
    return choice.kind === "snapshot" ? (choice.durable?.uri ?? null) : choice.kind;
  };
  assert.equal(durableOf([durable(3, 60), durable(3, 70)], null), "file:///c/3-70");
  assert.equal(durableOf([durable(3, 60)], null), null, "another state does not complete this one");
  assert.equal(durableOf([durable(3, 70, "flipped byte")], source), "file:///old");
  assert.equal(durableOf([durable(3, 70)], null, ["file:///c/3-70"]), null);
});

test("chooseRestore() begins anew only where all that is durable is of steps that are undone", () => {
  const choose = (isGivenUp: RestoreInput["isGivenUp"]) =>
    chooseRestore({
      ...oneNodeEach([[], []]),
      checkpoints: [{ ...durable(3, 40), unusable: "undone" }],
      source: null,
      isGivenUp,
      excludedSnapshots: new Set(),
      excludedCheckpoints: new Set(),
    });
  assert.equal(choose(({ step }) => step >= 40).kind, "initial");
  assert.equal(choose(({ step }) => step > 40).kind, "none");
});
