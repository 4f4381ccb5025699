import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";

/**
 * Does the simulation see anything? Each mutant is the core with one deliberate mistake of the kind that people make;
 * some seed must fail with it. They are text edits of the compiled core, each of which must apply exactly once.
 */
interface Mutant {
  name: string;
  file: string;
  from: string;
  to: string;
  /** What notices it; seeds unless given: some mistakes need a rare constellation, which then has its scenario. */
  by?: "scenarios";
}
const MUTANTS: Mutant[] = [
  {
    name: "accepts reports of older generations",
    file: "agent_reports.js",
    from: "if (report.generation !== generation.number) {",
    to: "if (false) {",
  },
  {
    name: "restores a state of which a shard is nowhere",
    file: "memory_states.js",
    from: "if (holders.size < layout.shardGroupSize)",
    to: "if (holders.size < 1)",
  },
  {
    name: "restores the oldest state that is whole",
    file: "memory_states.js",
    from: "compareStates(b.state, a.state)",
    to: "compareStates(a.state, b.state)",
  },
  {
    name: "chooses the state from inventories that lag behind",
    file: "nodes.js",
    from: "if (report.held !== null)",
    to: "if (report.held !== null && node.pages.every((page) => page.phase !== 'idle'))",
  },
  {
    name: "does not wait for a lost node's memory",
    file: "plan_members.js",
    from: "const graceEndMs = input.waitSinceMs + graceMs;",
    to: "const graceEndMs = input.waitSinceMs;",
  },
  {
    name: "waits for a lost node though others hold what was replicated",
    file: "plan_members.js",
    from: "if (kept !== null) {",
    to: "if (false) {",
    by: "scenarios",
  },
  {
    name: "keeps replicas in the failure domain of their originals",
    file: "choose_keepers.js",
    from: "(node) => node.failureDomain, keepers",
    to: "(node) => node.nodeId, keepers",
  },
  {
    name: "uses a generation number before it is durable",
    file: "form.js",
    from: 'persist(turn, writes, { kind: "prepare", jobId: job.record.jobId, generation: number });',
    to: "persist(turn, writes); prepareGeneration(turn, job);",
  },
  {
    name: "leads on in the term of the leader before it",
    file: "leadership.js",
    from: "const term = (state.leader?.term ?? 0) + 1;",
    to: "const term = Math.max(1, state.leader?.term ?? 0);",
  },
  {
    name: "takes every node that reconnects for one that has lost its ranks",
    file: "nodes.js",
    from: "if (hello.generation !== generation.number || hello.jobId !== job.record.jobId) {",
    to: "if (true) {",
  },
  {
    name: "takes a page of older work for this generation's",
    file: "adopt.js",
    from: "return page.generation === generation && TRAINING.has(page.phase);",
    to: "return TRAINING.has(page.phase);",
  },
  {
    name: "blames ranks whose agent has not heard the abort",
    file: "turn.js",
    from: "if (heard === null)",
    to: "if (true)",
    by: "scenarios",
  },
  {
    name: "judges by what it has not read yet, after standing still",
    file: "step.js",
    from: "if (turn.nowMs - atMs <= heartbeatMs || excused.has(timer)) {",
    to: "if (true) {",
    by: "scenarios",
  },
  {
    name: "gives a generation up for good that nobody could tell",
    file: "nodes.js",
    from: "if (generation.abortSent || ",
    to: "if (true || ",
    by: "scenarios",
  },
  {
    name: "gives ranks to a node that leaves",
    file: "members.js",
    from: "&& node.leaving === null &&",
    to: "&&",
  },
  {
    name: "takes a preempted node for a person who stops the job",
    file: "run.js",
    from: 'if (finished.reason === "stop" && job.record.stop === null) {',
    to: "if (false) {",
  },
  {
    name: "leaves memory behind when a node leaves in the middle of a recovery",
    file: "recover.js",
    from: "if (rescue !== null) {",
    to: "if (false) {",
    by: "scenarios",
  },
  {
    name: "connects as soon as the first rank is ready",
    file: "form.js",
    from: "return generation.reachedCount === generation.layout.worldSize;",
    to: "return generation.reachedCount >= 1;",
  },
];

const dist = path.resolve(import.meta.dirname, "../..");
const scratch = mkdtempSync(path.join(dist, ".mutants-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

for (const [index, { name, file, from, to, by }] of MUTANTS.entries()) {
  test(`a core that ${name} is caught`, () => {
    const root = path.join(scratch, String(index));
    for (const part of ["controller/core", "job", "test/sim", "scripts/sim.js"]) {
      cpSync(path.join(dist, part), path.join(root, part), { recursive: true });
    }
    const target = path.join(root, "controller/core", file);
    const text = readFileSync(target, "utf8");
    assert.equal(text.split(from).length, 2, `${file} must contain once: ${from}`);
    writeFileSync(target, text.replace(from, to));
    const args =
      by === "scenarios"
        ? ["--test", "--test-reporter=tap", path.join(root, "test/sim/scenarios.test.js")]
        : [path.join(root, "scripts/sim.js"), "--seeds", "1000", "--first"];
    // A test runner inside a test runner would report to the outer one.
    const env = { ...process.env };
    delete env.NODE_TEST_CONTEXT;
    const done = spawnSync(process.execPath, args, { encoding: "utf8", env });
    assert.equal(done.status, 1, `nothing noticed:\n${done.stdout}${done.stderr}`);
    assert.match(done.stdout, /seed \d+ FAILED|^not ok/m);
  });
}
