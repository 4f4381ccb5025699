import assert from "node:assert/strict";
import { test } from "node:test";
import { testJob, withCluster } from "./cluster.js";

const LIMIT = { timeout: 600_000 };

/** Two replicas of two ranks, one on a node each, until step 140. */
async function alarmsOf(
  failpoints?: string,
): Promise<{ messages: string[]; phase: string; nodes: string[] }> {
  return withCluster(failpoints === undefined ? {} : { failpoints }, async (cluster) => {
    const layout = ["layout.dp_replicate=2", "layout.dp_shard=2", "layout.sp=1"];
    await cluster.submit(await testJob(cluster.folder, [...layout, "train.steps=140"]));
    const { events, phase } = await cluster.follow();
    const { job } = await cluster.client.call("getJob", { name: "faults" });
    const told = events.filter(({ kind, message }) => kind === "alarm" && message.includes("same bits"));
    return { messages: told.map(({ message }) => message), phase, nodes: job!.rankNodes };
  });
}

test(
  "faults: a bit turns in one twin's weights while the optimizer reads them: the next comparison names both and the tensor",
  LIMIT,
  async () => {
    const { messages, phase, nodes } = await alarmsOf("optimizer.before@70/2:flip");
    assert.equal(phase, "COMPLETED");
    assert.equal(messages.length, 1, messages.join("\n"));
    const [told] = messages;
    assert.ok(
      told!.startsWith(`rank 0 on ${nodes[0]}, rank 2 on ${nodes[2]} must hold the same bits and do not`),
      told,
    );
    assert.match(told!, /in step 128 of generation 1: (model|ema|adam_[mv])\/\S+ \[\d+, \d+\)/);
    assert.match(told!, /at step 64 they were the same/);
  },
);

test("faults: twins of an undisturbed run hold the same bits whenever they are compared", LIMIT, async () => {
  const { messages, phase } = await alarmsOf();
  assert.deepEqual([phase, messages], ["COMPLETED", []]);
});
