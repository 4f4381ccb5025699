import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
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
  /** Scenarios that notice it; seeds unless given: some mistakes need a rare constellation, which then has its scenario. */
  by?: string;
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
    name: "draws a preview while the last one is still being drawn",
    file: "previews.js",
    from: "if (drawing !== null)",
    to: "if (false)",
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
    by: "lost_nodes",
  },
  {
    name: "waits for no agent that ended, whatever its memory is worth",
    file: "plan_members.js",
    from: "if (returns !== null)",
    to: "if (false)",
    by: "agents",
  },
  {
    name: "releases a node before anybody has read what it alone holds",
    file: "form.js",
    from: "releaseFormer(turn, job, (node) => !keepsMemory(turn, job, node));",
    to: "releaseFormer(turn, job, () => true);",
    by: "network",
  },
  {
    name: "tries again and again with members that cannot connect",
    file: "recover.js",
    from: "job.unconnected.set(nodeId, why);",
    to: ";",
    by: "network",
  },
  {
    name: "gives ranks to nodes whose self-checks are not over",
    file: "members.js",
    from: "&& mayServe(turn, job, node);",
    to: ";",
    by: "self_checks",
  },
  {
    name: "goes on with a node that was blamed again and again, unexamined",
    file: "recover.js",
    from: "if (examined !== null) {",
    to: "if (false) {",
    by: "self_checks",
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
    by: "network",
  },
  {
    name: "judges by what it has not read yet, after standing still",
    file: "step.js",
    from: "if (turn.nowMs - atMs <= heartbeatMs || excused.has(timer)) {",
    to: "if (true) {",
    by: "controllers",
  },
  {
    name: "judges a hang by heartbeats alone, asking nobody",
    file: "watch_stall.js",
    from: "generation.asked ??= askAll(turn, generation);",
    to: "generation.asked ??= new Set();",
    by: "hangs",
  },
  {
    name: "does not learn from the last steps that a machine has become slower",
    file: "stall_limit.js",
    from: "const RECENT_FACTOR = 2;",
    to: "const RECENT_FACTOR = 0;",
    by: "hangs",
  },
  {
    name: "takes a rank that waits for data for one that hangs",
    file: "watch_stall.js",
    from: "if (!isHung && stillMs < limitMs && nowMs < waitsUntilMs) {",
    to: "if (false) {",
    by: "hangs",
  },
  {
    name: "takes a rank that works for one that is blocked",
    file: "watch_stall.js",
    from: "Math.min(held, stillMs) >= blockedMs",
    to: "true",
    by: "hangs",
  },
  {
    name: "takes a rank that had nothing to do for one that does not get ready",
    file: "form.js",
    from: "node.heardCommand === null || !hasHeard(turn, generation, nodeId)",
    to: "false",
  },
  {
    name: "waits for a rank that waits for data for ever",
    file: "watch_stall.js",
    from: "if (!isHung && stillMs < limitMs && nowMs < waitsUntilMs) {",
    to: "if (!isHung && stillMs < limitMs) {",
    by: "hangs",
  },
  {
    name: "gives ranks that hang in a collective all the time that others may take to answer",
    file: "answers.js",
    from: "if (answered.size === 0)",
    to: "if (true)",
    by: "hangs",
  },
  {
    name: "gives a generation up for good that nobody could tell",
    file: "nodes.js",
    from: "if (generation.abortSent || ",
    to: "if (true || ",
    by: "network",
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
    from: "const rescue = awaitRescue(turn, job);",
    to: "const rescue = null;",
    by: "leaving",
  },
  {
    name: "lets a generation make way for a larger one that it never forms",
    file: "grow.js",
    from: "reform(turn, job);",
    to: "",
  },
  {
    name: "leads on beyond its lease",
    file: "../shell/leadership.js",
    from: "const deadlineMs = sentMs + this.#leaseMs - this.#safetyMs;",
    to: "const deadlineMs = sentMs + 3 * this.#leaseMs;",
  },
  {
    name: "tells agents what a write is to make durable though another leads",
    file: "durable.js",
    from: "if (untouched && !flight.refused) {",
    to: "if (untouched) return transaction.then; if (false) {",
  },
  {
    name: "takes a program's job for done when its first rank has ended",
    file: "program.js",
    from: "if (generation.reachedCount < generation.layout.worldSize)",
    to: "if (false)",
  },
  {
    name: "never looks for programs that stand still",
    file: "program.js",
    from: "if (verdict === null) {",
    to: "if (true) {",
  },
  {
    name: "takes a slow heartbeat for a program that stands still",
    file: "program.js",
    from: "return Math.max(learnt, pageAgeMs(turn));",
    to: "return 1_200;",
  },
  {
    name: "connects as soon as the first rank is ready",
    file: "form.js",
    from: "return generation.reachedCount === generation.layout.worldSize;",
    to: "return generation.reachedCount >= 1;",
  },
  {
    name: "gives drained and quarantined nodes ranks",
    file: "members.js",
    from: "!turn.state.quarantine.has(node.nodeId) && mayServe",
    to: "mayServe",
  },
  {
    name: "takes nodes that are to be avoided as gladly as others",
    file: "plan_members.js",
    from: "!input.avoid.has(nodeId) || members.includes(nodeId)",
    to: "true",
    by: "numbers",
  },
  {
    name: "leaves no spares",
    file: "plan_members.js",
    from: 'return formAuto(input, "", job.recovery.spares);',
    to: 'return formAuto(input, "");',
  },
  {
    name: "calls ranks slow that are so by chance",
    file: "judge_slow_ranks.js",
    from: "if (score > limit)",
    to: "if (score > 1)",
  },
  {
    name: "names nobody who is slow",
    file: "judge_slow_ranks.js",
    from: ": slowRounds[rank] >= SLOW_ROUNDS_MIN",
    to: ": false",
    by: "pace",
  },
  {
    name: "names the wrong node for wrong numbers",
    file: "judge_bad_step.js",
    from: "const nodeId = isTold ? [...nodes][0] : null;",
    to: "const nodeId = rankNodes[0];",
    by: "numbers",
  },
  {
    name: "gives a job up for one whose hardware was wrong",
    file: "not_finite.js",
    from: 'if (causes.size === 1 && causes.has("hardware"))',
    to: "if (false)",
    by: "numbers",
  },
  {
    name: "tells nobody whose snapshot is damaged who else has it",
    file: "restore_places.js",
    from: "const others = list.length - own.length;",
    to: "const others = own.length > 0 ? 0 : list.length;",
    by: "memory",
  },
  {
    name: "asks for a snapshot again that proved damaged",
    file: "recover.js",
    from: "job.excludedSnapshots.add(stateKey(choice.state));",
    to: ";",
    by: "memory",
  },
  {
    name: "asks for a checkpoint again that proved damaged",
    file: "recover.js",
    from: "job.excludedCheckpoints.add(uri);",
    to: "return;",
    by: "saves",
  },
  {
    name: "remembers the newest checkpoint alone",
    file: "checkpoints.js",
    from: "while (first > 0 && usable < keep_last) {",
    to: "while (first > 0 && usable < 1) {",
    by: "saves",
  },
  {
    name: "tells nobody that a save failed",
    file: "checkpoints.js",
    from: "job.saveAlarm = report.state;",
    to: "return;",
    by: "disks",
  },
  {
    name: "never ends the alarm of a failed save",
    file: "checkpoints.js",
    from: "job.saveAlarm = null;",
    to: ";",
  },
  {
    name: "tells nobody that a copy failed",
    file: "replica_alarm.js",
    from: "job.replicaAlarm = state;",
    to: "return;",
    by: "memory",
  },
  {
    name: "goes back behind what memory holds without looking what is committed",
    file: "form.js",
    from: 'if (choice.kind !== "snapshot" && askStorage(turn, job))',
    to: "if (false)",
  },
  {
    name: "promises a save and asks nobody for it",
    file: "jobs.js",
    from: 'sendAll(turn, generation, { $case: "requestSave", value: { generation: BigInt(generation.number) } });',
    to: ";",
  },
  {
    name: "goes on from the steps that ranks have voted to undo",
    file: "recover.js",
    from: "rollBack(turn, job, job.numbers.rollBack);",
    to: "job.numbers.rollBack = null;",
    by: "roll_backs",
  },
  {
    name: "restores the last of the steps that are undone",
    file: "roll_back.js",
    from: "state.generation <= generation && state.step >= first",
    to: "state.generation <= generation && state.step > first",
    by: "roll_backs",
  },
  {
    name: "restores what is undone, of the generation that undid it",
    file: "roll_back.js",
    from: "state.generation <= generation && state.step >= first",
    to: "state.generation < generation && state.step >= first",
    by: "roll_backs",
  },
  {
    name: "gives up states from behind a roll-back as well",
    file: "roll_back.js",
    from: "state.generation <= generation && state.step >= first",
    to: "state.step >= first",
    by: "roll_backs",
  },
  {
    name: "writes down no roll-back",
    file: "roll_back.js",
    from: "persist(turn, [jobWrite(job), checkpointsWrite(job)]);",
    to: ";",
    by: "roll_backs",
  },
  {
    name: "goes back further than anything that is durable",
    file: "roll_back.js",
    from: "reachable(job, wanted, last) :",
    to: "wanted :",
    by: "roll_backs",
  },
  {
    name: "writes down a second time what the leader before it has undone",
    file: "roll_back.js",
    from: "(each) => each.generation === generation.number",
    to: "() => false",
    by: "roll_backs",
  },
  {
    name: "goes back less far than it could",
    file: "roll_back.js",
    from: "const oldest = Math.min(...steps);",
    to: "const oldest = Math.max(...steps);",
    by: "roll_backs",
  },
  {
    name: "tells ranks nothing of what they are to leave out",
    file: "phase_commands.js",
    from: "rollBacks: job.record.rollBacks.map(",
    to: "rollBacks: [].map(",
    by: "roll_backs",
  },
  {
    name: "restores a checkpoint that was committed after its steps were undone",
    file: "checkpoints.js",
    from: 'unusable: isUndone ? "the run went back to a step before it" : null',
    to: "unusable: null",
    by: "roll_backs",
  },
  {
    name: "does not take in what a new leader is told of a roll-back anew",
    file: "numbers.js",
    from: "if (rollBack !== undefined && places.number === job.generation.number)",
    to: "if (false)",
    by: "roll_backs",
  },
  {
    name: "does nothing about a GPU that has fallen off the bus",
    file: "signals.js",
    from: "quarantine(turn, nodeId, signWords(sign), node.machine);",
    to: ";",
  },
  {
    name: "quarantines the node of a sign and lets its ranks go on",
    file: "signals.js",
    from: 'faultOf({ atMs: turn.nowMs, source: "signal", code: "HARDWARE_FAULT", nodeId, text }),',
    to: "",
    by: "signs",
  },
  {
    name: "quarantines a node for words",
    file: "signals.js",
    from: 'if (sign.source === "log") {',
    to: 'if (sign.action === "suspect") quarantine(turn, nodeId, signWords(sign), node.machine); if (sign.source === "log") {',
  },
  {
    name: "takes another process of a machine for another boot",
    file: "signals.js",
    from: "bad.machine === machine)",
    to: "false)",
    by: "signs",
  },
  {
    name: "never takes a machine back that has booted",
    file: "signals.js",
    from: "bad.machine === undefined || bad.machine === machine",
    to: "true",
    by: "signs",
  },
  {
    name: "waits for a quarantined node that it never examines, since its job waits for it",
    file: "self_checks.js",
    from: "return isExpired(turn, bad) && isReachable(turn, node)",
    to: "return isExpired(turn, bad) && isFree(turn, node)",
    by: "signs",
  },
  {
    name: "gives a drained node back when it boots",
    file: "quarantine.js",
    from: "machine === undefined || before?.drained",
    to: "machine === undefined",
    by: "signs",
  },
  {
    name: "replaces no node of which a sign says that it should",
    file: "signals.js",
    from: "leave(turn, job, nodeId, text);",
    to: ";",
    by: "signs",
  },
  {
    name: "suspects a machine for what all machines count",
    file: "signals.js",
    from: "if (!isAlone(turn, node, sign))",
    to: "if (false)",
    by: "signs",
  },
  {
    name: "waits for the limit of hangs though a rank wrote words of a machine",
    file: "signals.js",
    from: "awaitStandstill(turn, job, sign);",
    to: ";",
    by: "signs",
  },
  {
    name: "ends a rank for words, whether it goes on or not",
    file: "signals.js",
    from: "Math.max(heardMs, generation.changedMs[rank])",
    to: "heardMs",
    by: "signs",
  },
  {
    name: "blames a node for a kill for memory",
    file: "recover.js",
    from: 'culprit.nodeId !== null && cause !== "program"',
    to: "culprit.nodeId !== null",
    by: "signs",
  },
  {
    name: "takes every SIGKILL of a node that was short of memory once for that",
    file: "judge_signals.js",
    from: "return fault.killed && ageMs <= KILLED_MS;",
    to: "return true;",
    by: "signs",
  },
];

const dist = path.resolve(import.meta.dirname, "../..");
const scratch = mkdtempSync(path.join(dist, ".mutants-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

for (const [index, { name, file, from, to, by }] of MUTANTS.entries()) {
  test(`a core that ${name} is caught`, () => {
    const root = path.join(scratch, String(index));
    for (const part of [
      "controller/api/not_leader_error.js",
      "controller/core",
      "controller/kubernetes/pod_fate.js",
      "controller/shell/leader_record.js",
      "controller/shell/leadership.js",
      "controller/shell/records.js",
      "test/sim",
      "test/support/agent_messages.js",
      "scripts/sim.js",
    ]) {
      cpSync(path.join(dist, part), path.join(root, part), { recursive: true });
    }
    // These know nothing of the controller, so that the copy may share them.
    for (const part of ["checkpoint", "job", "worker"])
      symlinkSync(path.join(dist, part), path.join(root, part));
    const target = path.join(root, "controller/core", file);
    const text = readFileSync(target, "utf8");
    assert.equal(text.split(from).length, 2, `${file} must contain once: ${from}`);
    writeFileSync(target, text.replace(from, to));
    const args =
      by !== undefined
        ? ["--test", "--test-reporter=tap", path.join(root, `test/sim/scenarios/${by}.test.js`)]
        : [path.join(root, "scripts/sim.js"), "--seeds", "1000", "--first"];
    // A test runner inside a test runner would report to the outer one.
    const env = { ...process.env };
    delete env.NODE_TEST_CONTEXT;
    const done = spawnSync(process.execPath, args, { encoding: "utf8", env });
    assert.doesNotMatch(done.stdout + done.stderr, /ERR_MODULE_NOT_FOUND/, "a part of the copy is missing");
    assert.equal(done.status, 1, `nothing noticed:\n${done.stdout}${done.stderr}`);
    assert.match(done.stdout, /seed \d+ FAILED|^not ok/m, done.stderr);
  });
}
