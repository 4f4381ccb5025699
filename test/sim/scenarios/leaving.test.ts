import assert from "node:assert/strict";
import { test } from "node:test";
import { FOUR, finishes, generation, JOB, trained } from "./scenario.js";

test("node: is drained: saves at the next step, a spare goes on from that state; a later leader keeps it drained", async () => {
  const sim = await trained(20);
  const { nodeId } = sim.nodes[1]!;
  sim.drain(nodeId);
  await sim.until(() => sim.incidents(JOB).at(-1)?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.deepEqual([incident?.what, incident?.stepsLost], [`${nodeId} is drained, asked to by a person`, 0]);
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node.nodeId === nodeId));
  const leader = sim.leader()!;
  leader.crash();
  leader.restart();
  await sim.until(() => sim.leader()?.core?.leader?.ready === true);
  assert.deepEqual([...sim.leader()!.core!.quarantine.keys()], [nodeId]);
  await finishes(sim);
});

test("node: leaves: saves at the next step, a spare goes on from that state, no step is computed again", async () => {
  const sim = await trained(20);
  const first = generation(sim);
  sim.leaveNode(sim.nodes[1]!, 30_000, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  const { content } = sim.job(JOB).storage.durable.at(-1)!;
  assert.deepEqual([incident!.code, incident!.stepsLost], ["NODE_PREEMPTED", 0]);
  assert.match(incident!.decisions.map((d) => d.text).join("; "), new RegExp(`-${content.state.step} `));
  assert.ok(content.state.generation === first && content.state.step <= 22, `${content.state.step}`);
  assert.equal(sim.nodes[1]!.up, false, "it went long before its grace was over");
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node === sim.nodes[1]));
  await finishes(sim);
});

test("node: leaves without a spare: an auto layout shrinks, a fixed one waits until it is back; no step is lost", async () => {
  for (const layout of ["auto", FOUR] as const) {
    const sim = await trained(20, { nodes: 2 }, { layout });
    sim.leaveNode(sim.nodes[1]!, 30_000, 40_000);
    await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
    assert.equal(sim.incidents(JOB)[0]!.stepsLost, 0);
    assert.equal(sim.groupOf(JOB)!.worldSize, layout === "auto" ? 2 : 4);
    await finishes(sim);
  }
});

test("node: leaves while a rank hangs elsewhere: the last step is saved from memory, without the ranks", async () => {
  const sim = await trained(22);
  const victim = sim.rankOf(JOB, 0);
  await sim.until(() => victim.phase === "forward");
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  await sim.run(1_500);
  const step = sim.stepOf(JOB);
  assert.ok(sim.job(JOB).storage.durable.every(({ content }) => content.state.step < step));
  sim.leaveNode(sim.nodes[1]!, 8_000, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.job(JOB).storage.durable.at(-1)!.content.state.step, step);
  assert.equal(sim.incidents(JOB)[0]!.stepsLost, 0);
  assert.match(
    sim
      .incidents(JOB)[0]!
      .decisions.map((d) => d.text)
      .join("; "),
    /from memory/,
  );
  await finishes(sim);
});

test("node: leaves while another rank's death is being dealt with: what memory holds is saved, no step is lost", async () => {
  const sim = await trained(20);
  const step = sim.stepOf(JOB);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  sim.leaveNode(sim.nodes[1]!, 20_000, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(sim.job(JOB).storage.durable.at(-1)!.content.state.step >= step - 1);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  await finishes(sim);
});

test("node: leaves while no controller is there: its ranks ask for the end themselves; the next leader goes on from it", async () => {
  const sim = await trained(20, { controllers: 1 });
  sim.controllers[0]!.crash();
  sim.leaveNode(sim.nodes[1]!, 10_000, 10_000_000);
  await sim.until(() => !sim.nodes[1]!.up);
  const { step } = sim.job(JOB).storage.durable.at(-1)!.content.state;
  assert.equal(step, sim.stepOf(JOB), "nobody computed on behind the save");
  sim.controllers[0]!.restart();
  await finishes(sim);
  assert.equal(sim.incidents(JOB).at(-1)!.stepsLost, 0);
});
