import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../checkpoint/state.js";
import type { SimCluster } from "../sim_cluster.js";
import { unstored } from "../sim_content.js";
import { decisions, finishes, JOB, recovers, replicated, resumed, trained } from "./scenario.js";

/** Turns bits in what a node holds of the newest state that all hold. */
function damageNewest(sim: SimCluster, rank: number, chunks: readonly number[], kept = false): void {
  const { node } = sim.agentOf(JOB, rank);
  const { set, sealed } = sim.rankOf(JOB, rank);
  const state = kept ? replicated(sim) : sealed!;
  const copy = node.memory.findOwn(set, state);
  for (const chunk of chunks) copy!.damaged.add(chunk);
  sim.damaged(node);
}

test("memory: a bit turns in the state that a rank computes with: all go back one step, no number is lost to it", async () => {
  const sim = await trained(20);
  const step = sim.stepOf(JOB);
  await sim.until(() => sim.rankOf(JOB, 2).phase === "forward");
  damageNewest(sim, 2, [1]);
  sim.groupOf(JOB)!.disturbed = true;
  await recovers(sim);
  const [incident] = sim.incidents(JOB);
  assert.deepEqual([incident!.code, incident!.rank], ["RANK_CORRUPT", 2]);
  assert.ok(resumed(sim) >= step - 1, `${resumed(sim)} of ${step}`);
  await finishes(sim);
});

test("memory: a rank's own snapshot is damaged when it is to restore it: its replica serves the chunk", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000 });
  const before = replicated(sim);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "connect");
  const { node } = sim.agentOf(JOB, 2);
  const set = sim.rankOf(JOB, 2).set;
  for (const copy of node.memory.slots(set)) copy?.damaged.add(0);
  sim.damaged(node);
  await recovers(sim);
  assert.ok(resumed(sim) >= before.step, decisions(sim));
  assert.ok(
    sim.logs.some((line) => /since others did not serve: chunk 0 on this node is damaged/.test(line)),
  );
});

test("memory: the newest snapshot is damaged everywhere: the state before it serves, and is not asked for twice", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000, replicas: 0 });
  const newest = sim.stepOf(JOB);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "connect");
  const { node } = sim.agentOf(JOB, 2);
  const copies = node.memory.slots(sim.rankOf(JOB, 2).set).filter((copy) => copy !== null);
  const latest = Math.max(...copies.map(({ content }) => content.state.step));
  for (const copy of copies) if (copy.content.state.step === latest) copy.damaged.add(3);
  await recovers(sim);
  assert.ok(resumed(sim) >= newest - 2 && resumed(sim) < latest, `${resumed(sim)} of ${newest}, ${latest}`);
  assert.equal(sim.view(JOB)!.generation!.number, 3, decisions(sim));
  await finishes(sim);
});

test("memory: a snapshot is damaged while it is copied to its keeper: an alarm, another state is copied, then all is well", async () => {
  const sim = await trained(20, {}, { saveEverySteps: 1_000, steps: 120 });
  const { node } = sim.agentOf(JOB, 0);
  const { place, set } = sim.rankOf(JOB, 0);
  const isCopied = (state: StateName) =>
    sim.nodes.some(({ memory }) => memory.findReplica(set, unstored(state)) !== null);
  const sent = () => place!.book.slots.find(({ holds, state }) => holds > 0 && !isCopied(state!));
  await sim.until(() => sent() !== undefined);
  place!.memory.slots(set)[sent()!.index]!.damaged.add(2);
  sim.damaged(node);
  const { step } = replicated(sim);
  await sim.until(() => replicated(sim).step > step + 5);
  assert.equal(sim.logs.filter((line) => /copying .* of rank 0 to n01 failed/.test(line)).length, 1);
  assert.equal(sim.logs.filter((line) => /copies arrive again/.test(line)).length, 1);
  await finishes(sim);
});

test("memory: a node is lost and the replicas of its ranks are damaged: what cannot be read is passed over, a checkpoint serves", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 10 });
  const keeper = sim.nodes[0]!;
  const kept = ["1x2x2/2", "1x2x2/3"];
  for (const copy of keeper.memory.copies())
    if (kept.some((set) => keeper.memory.findReplica(set, copy.content.state) === copy)) copy.damaged.add(1);
  sim.damaged(keeper);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await recovers(sim);
  assert.match(decisions(sim), /from memory, .*from checkpoint/);
  assert.ok(sim.groups.size <= 4, decisions(sim));
  await finishes(sim);
});
