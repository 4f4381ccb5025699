import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseRestore, type RestoreChoice } from "../../../controller/core/choose_restore.js";
import type { CheckpointEntry, StateName } from "../../../controller/core/contract.js";

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
      rankStates: ranks,
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
    rankStates: [[at(1, 42)], [], [], [at(1, 42)]],
    checkpoints: [durable(1, 30)],
    source: null,
    excludedSnapshots: new Set(),
    excludedCheckpoints: new Set(),
  });
  assert.equal(
    choice.reason,
    "from checkpoint file:///c/1-30 (step 30 of generation 1): ranks 1, 2 of 4 hold no snapshot",
  );
});
