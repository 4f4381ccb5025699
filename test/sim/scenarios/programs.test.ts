import assert from "node:assert/strict";
import { test } from "node:test";
import type { SimCluster, SimJobOptions } from "../sim_cluster.js";
import type { SimProgram } from "../sim_program.js";
import { finishes, JOB, trained } from "./scenario.js";

const PROGRAM = {
  heartbeat: "required",
  beats: true,
  coupled: true,
  crashes: 0,
  hangs: 0,
  saved: 0,
} as const;

/** A cluster whose job runs a program of its own on four ranks, and has told `steps` steps. */
const programmed = (steps: number, program: Partial<SimProgram> = {}, job: Partial<SimJobOptions> = {}) =>
  trained(steps, {}, { program: { ...PROGRAM, ...program }, ...job });
const programsFinish = async (sim: SimCluster) => {
  await finishes(sim);
  assert.equal(sim.programsOf(JOB)!.ended.size, 4);
};

test("program: a rank of it is killed: all start again from its own checkpoint, with no state of ours", async () => {
  const sim = await programmed(25);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.match(sim.incidents(JOB)[0]!.what, /^rank 2 on n01 ended by SIGKILL/);
  assert.ok(sim.stepOf(JOB) >= 20 && sim.stepOf(JOB) <= 22, `${sim.stepOf(JOB)}`);
  assert.equal(sim.job(JOB).storage.durable.length, 0);
  await programsFinish(sim);
});

test("program: a rank of it stands still alone: named by its heartbeats, killed, and started again", async () => {
  const sim = await programmed(25, { coupled: false });
  const hung = sim.rankOf(JOB, 1);
  sim.programsOf(JOB)!.hang(hung);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.match(sim.incidents(JOB)[0]!.what, /^rank 1 on n00: no heartbeat for .* 3 others went on/);
  assert.ok(!hung.alive);
  await programsFinish(sim);
});

test("program: it exits with an error and hangs now and then: each is found, and the job comes to its end", async () => {
  const sim = await programmed(0, { crashes: 3, hangs: 2 }, { steps: 120 });
  await programsFinish(sim);
  assert.deepEqual([sim.job(JOB).program!.crashes, sim.job(JOB).program!.hangs], [0, 0]);
  assert.ok(sim.incidents(JOB).every(({ code }) => code === "PROGRAM_FAILED" || code === "RANK_STALLED"));
});

test("program: its leader dies while it runs: the next one takes it over, and no program is disturbed", async () => {
  const sim = await programmed(25);
  sim.leader()!.crash();
  await programsFinish(sim);
  assert.equal(sim.groups.size, 1);
});
