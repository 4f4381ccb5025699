import assert from "node:assert/strict";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { assertSameRun, generations, LIMIT, run, STEPS } from "./compare_runs.js";

/** Steps whose numbers are not finite: by hardware, or by the data. */

test(
  "faults: a rank is wrong once: the step is computed again and applied, the rank is named: same losses, same weights",
  LIMIT,
  async () => {
    const found = await run({
      failpoints: "forward.block@6/1:nan,vote.before@9/3:nan,backward.block@12/0:nan",
    });
    await assertSameRun(found);
    const { record, incidents, cluster } = found;
    assert.equal(generations(record), 1);
    assert.ok(record.steps.every(({ applied }) => applied));
    const node = (rank: number) => `node-${rank < 2 ? "a" : "b"}`;
    const told = record.events.filter(({ kind, message }) => kind === "numbers" && /hardware/.test(message));
    const want = [
      [6, 1],
      [9, 3],
      [12, 0],
    ].map(
      ([step, rank]) =>
        new RegExp(
          `^step ${step} was not finite .* other losses of rank ${rank} .* a device of ${node(rank!)}; applied`,
        ),
    );
    assert.equal(told.length, 3, `${told.map(({ message }) => message).join("\n")}\n${cluster.logs}`);
    for (const [i, { message }] of told.entries()) assert.match(message, want[i]!);
    assert.deepEqual(incidents, [], "no node was free to take a place");
  },
);

test(
  "faults: a rank is wrong once and a node is free: it takes the place, no step is computed twice: same losses, same weights",
  LIMIT,
  async () => {
    const found = await run({ nodes: 3, failpoints: "forward.block@6/2:nan" });
    await assertSameRun(found);
    const { record, incidents } = found;
    const [incident, ...more] = incidents;
    assert.deepEqual([incident?.code, incident?.rank, incident?.stepsLost], ["RANK_CORRUPT", 2, 0n]);
    assert.match(incident!.decision, new RegExp(`go on from it without ${incident!.nodeId}`));
    assert.deepEqual(more, []);
    assert.deepEqual(
      record.steps.map(({ step }) => step),
      Array.from({ length: STEPS }, (_, i) => i + 1),
    );
  },
);

test(
  "faults: losses that are not numbers whoever computes them: the steps are voted down by all, told, and training goes on",
  LIMIT,
  async () => {
    const { record, incidents } = await run({ failpoints: "forward.block@6:poison,vote.before@9/3:poison" });
    assert.equal(record.phase, "COMPLETED");
    assert.equal(generations(record), 1);
    const down = record.steps.filter(({ applied }) => !applied).map(({ step }) => step);
    assert.deepEqual(down, [6, 9]);
    const told = record.events.filter(({ kind }) => kind === "numbers").map(({ message }) => message);
    assert.equal(told.length, 2, told.join("\n"));
    assert.match(
      told[0]!,
      /^step 6 was not finite \(packs 0, 1, 2\), and the same again when computed a second time/,
    );
    assert.match(told[1]!, /^step 9 was not finite \(packs 0, 1, 2\), and the same again/);
    assert.deepEqual(incidents, []);
  },
);

test(
  "faults: a rank is wrong whenever it computes a step, and a node is free: others find its packs finite, its node is replaced",
  LIMIT,
  async () => {
    const { record, incidents, cluster } = await run({ nodes: 3, failpoints: "forward.block@6/2:poison" });
    assert.equal(record.phase, "COMPLETED", cluster.logs);
    assert.deepEqual(
      record.steps.filter(({ applied }) => !applied).map(({ step }) => step),
      [6],
    );
    const told = record.events.filter(({ kind }) => kind === "numbers").map(({ message }) => message);
    assert.match(
      told[0]!,
      /^step 6 was not finite \(pack 1\), and on ranks 2, 3 only: others find their packs finite/,
    );
    const [incident, ...more] = incidents;
    assert.equal(incident?.code, "RANK_CORRUPT", told.join("\n"));
    assert.match(incident!.decision, new RegExp(`go on from it without ${incident!.nodeId}`));
    assert.deepEqual(more, []);
  },
);

test(
  "faults: no step is finite any more: the job fails after as many as it allows, its last state durable",
  LIMIT,
  async () => {
    const { record, incidents, job, cluster } = await run({
      failpoints: "backward.block:poison",
      overrides: ["recovery.max_bad_steps=4"],
    });
    assert.equal(record.phase, "FAILED", cluster.logs);
    assert.deepEqual(
      record.steps.map(({ step, applied }) => [step, applied]),
      [1, 2, 3, 4].map((step) => [step, false]),
    );
    const why = /losses or gradients of steps 1 to 4 are not finite, also when computed again/;
    assert.ok(
      record.events.some(({ message }) => why.test(message)),
      cluster.logs,
    );
    assert.equal(incidents.at(-1)?.code, "NOT_FINITE");
    const { meta } = await openCheckpoint(job.checkpoint.uri);
    assert.deepEqual([meta.state.step, meta.adamStep], [4, 0]);
  },
);
