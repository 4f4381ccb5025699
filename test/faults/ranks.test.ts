import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { assertSameRun, generations, LIMIT, reference, run, STEPS } from "./compare_runs.js";

/** Ranks that die, stop or fail at any moment. */

test(
  "faults: nothing: every step once, in one generation, with checkpoints at 10, 20 and 30",
  LIMIT,
  async () => {
    const { record, job } = await reference();
    assert.equal(record.phase, "COMPLETED");
    assert.deepEqual(
      record.steps.map(({ step, applied }) => [step, applied]),
      Array.from({ length: STEPS }, (_, i) => [i + 1, true]),
    );
    assert.equal(generations(record), 1);
    assert.equal((await openCheckpoint(job.checkpoint.uri)).meta.state.step, STEPS);
  },
);

test(
  "faults: SIGKILL of a rank in every phase, and of two at once: same losses, same weights",
  LIMIT,
  async () => {
    const failpoints = [
      "connect.before/1:kill",
      "restore.before/2:kill",
      "data.before@3/0:kill",
      "forward.block@5/1:kill",
      "collective.entered@7/2:kill",
      "backward.block@9/3:kill",
      "vote.before@12/0:kill",
      "optimizer.before@14/1:kill",
      "optimizer.after@16/2:kill",
      "snapshot.write@18/3:kill",
      "data.before@23/0:kill",
      "data.before@23/3:kill",
      "snapshot.write@30/1:kill",
    ];
    const found = await run({ failpoints: failpoints.join(",") });
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    await assertSameRun(found);
  },
);

test(
  "faults: a rank killed twice before a step is completed: its node is examined between generations, same losses",
  LIMIT,
  async () => {
    const found = await run({ failpoints: "restore.before/1:kill,vote.before@1/1:kill" });
    await assertSameRun(found);
    const log = readFileSync(path.join(found.cluster.folder, "controller.log"), "utf8");
    const [, node] = /examines (node-\w) \(2 faults in a row were laid to it\) before it is used again/.exec(
      log,
    )!;
    assert.match(log.slice(log.indexOf("examines node-")), new RegExp(`${node} passed \\d self-checks`));
  },
);

test(
  "faults: a rank stopped, one blocked, one with an error of its own: each named, replaced, same losses",
  LIMIT,
  async () => {
    const failpoints = [
      "prepare.before/3:stop",
      "vote.before@8/2:stop",
      "data.before@14/1:stall",
      "backward.block@20/0:throw",
    ];
    const found = await run({ failpoints: failpoints.join(",") });
    assert.equal(found.cluster.fired.length, failpoints.length, found.cluster.fired.join(" "));
    assert.deepEqual(
      found.incidents.map(({ code, rank, nodeId }) => [code, rank, nodeId]),
      [
        ["RANK_STALLED", 3, "node-b"],
        ["RANK_STALLED", 2, "node-b"],
        ["RANK_STALLED", 1, "node-a"],
        ["INTERNAL", 0, "node-a"],
      ],
    );
    const [early, stopped, blocked, threw] = found.incidents.map(({ what }) => what);
    assert.match(early!, /^rank 3 on node-b has shown no sign of life for \d+ s \(prepare of generation 1\)/);
    assert.match(
      stopped!,
      /^rank 2 on node-b has not moved .*\(step 8, reduce\); 3 ranks wait in all_reduce of world/,
    );
    assert.match(
      blocked!,
      /^rank 1 on node-a has not moved .*\(step 14, data\); 3 ranks wait in all_gather of shard/,
    );
    const stacks = found.incidents.map((incident) =>
      incident.stacks.flatMap(({ lines }) => lines).join("\n"),
    );
    assert.match(stacks[1]!, /^process \d+: stopped by a signal$/);
    assert.match(stacks[2]!, /^process \d+: [\s\S]*^main thread[\s\S]*\((node|libc\.so\.6)\)$/m);
    assert.equal(stacks[3], "", "it said itself what was wrong");
    assert.match(threw!, /^rank 0 on node-a: .*backward\.block@20\/0:throw threw/);
    await assertSameRun(found);
  },
);
