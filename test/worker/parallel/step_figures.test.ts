import assert from "node:assert/strict";
import { test } from "node:test";
import { fleetJob, trainFleet } from "./fleet.js";

/** Work and times of every rank's last step. */
async function figures(layout: string) {
  const results = await trainFleet({ layout, job: fleetJob({ packs: 3, steps: 2 }) });
  return results.map((result) => result.figures!);
}

test("ranks share the work of a step, and one without a pack has neither work nor time of its own", async () => {
  const [whole] = await figures("1x1x1");
  assert.ok(whole!.work > 0 && whole!.forwardSeconds > 0 && whole!.backwardSeconds > 0);
  const shared = await figures("1x4x1");
  const total = shared.reduce((sum, { work }) => sum + work, 0);
  assert.equal(total, whole!.work);
  const { work, forwardSeconds, backwardSeconds, optimizerSeconds } = shared[3]!;
  assert.deepEqual([work, forwardSeconds, backwardSeconds], [0, 0, 0]);
  assert.ok(optimizerSeconds > 0, "its shard is as large as any");
});

test("what a rank does by itself is part of what it computes, waiting for others is not", async () => {
  for (const each of await figures("1x2x2")) {
    const own = each.forwardSeconds + each.backwardSeconds;
    assert.ok(own > 0 && own <= each.computeSeconds + 1e-9, JSON.stringify(each));
    assert.ok(each.commWaitSeconds > 0);
  }
});

test("waiting is told by collective, and the vote knows the work of all ranks", async () => {
  const results = await trainFleet({ layout: "2x2x2", job: fleetJob({ packs: 4, steps: 2 }) });
  const work = results.reduce((sum, { figures }) => sum + figures!.work, 0);
  const seen = new Set<string>();
  for (const { figures, votes } of results) {
    const { waits, commWaitSeconds } = figures!;
    const told = Object.values(waits).reduce((sum, seconds) => sum + seconds, 0);
    assert.ok(Math.abs(told - commWaitSeconds) < 1e-9, JSON.stringify(figures));
    for (const [kind, seconds] of Object.entries(waits)) if (seconds > 0) seen.add(kind);
    assert.ok(Math.abs(votes.at(-1)!.work / work - 1) < 1e-12, `${votes.at(-1)!.work} of ${work}`);
  }
  assert.deepEqual([...seen].sort(), ["allGather", "allReduce", "allToAll", "reduceScatter", "vote"]);
});

test("work and times of a step that is computed again are of all tries, those of the next step its own", async () => {
  const layout = "1x2x1";
  const once = await trainFleet({ layout, job: fleetJob({ packs: 2, steps: 1 }) });
  const tried = await trainFleet({ layout, job: fleetJob({ packs: 2, steps: 1 }), movedFirst: true });
  const all = once.reduce((sum, { figures }) => sum + figures!.work, 0);
  for (const [rank, { movedFigures, figures }] of tried.entries()) {
    const [first, second] = movedFigures;
    assert.equal(first!.work, once[rank]!.figures!.work);
    assert.equal(second!.work, all, "its own pack, then the other's");
    assert.equal(figures!.work, all + first!.work, "its own once more");
    for (const [before, after] of [
      [first!, second!],
      [second!, figures!],
    ] as const) {
      assert.ok(after.computeSeconds > before.computeSeconds);
      assert.ok(
        after.forwardSeconds > before.forwardSeconds && after.backwardSeconds > before.backwardSeconds,
      );
      assert.ok(after.commWaitSeconds > before.commWaitSeconds);
    }
    assert.ok(figures!.forwardSeconds + figures!.backwardSeconds <= figures!.computeSeconds + 1e-9);
  }
  const later = await trainFleet({ layout, job: fleetJob({ packs: 2, steps: 2 }) });
  const next = await trainFleet({ layout, job: fleetJob({ packs: 2, steps: 2 }), movedFirst: true });
  assert.deepEqual(
    next.map(({ figures }) => figures!.work),
    later.map(({ figures }) => figures!.work),
  );
});
