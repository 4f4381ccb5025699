import assert from "node:assert/strict";
import { test } from "node:test";
import { fleetJob, trainFleet, wholeState } from "./fleet.js";

for (const layout of ["1x3x1", "1x1x3", "2x1x2"]) {
  test(`a rank of ${layout} leaves in mid-step: the others free everything and go on in a new generation`, async () => {
    const job = fleetJob({ packs: 3, steps: 3 });
    const results = await trainFleet({ layout, job, desertion: { rank: 1, step: 2 } });
    for (const [rank, result] of results.entries()) {
      assert.deepEqual(
        result.leaks,
        result.leaks.map(() => 0),
        `rank ${rank} leaks`,
      );
      if (rank === 1) continue;
      assert.ok(
        ["COMM_PEER_DIED", "COMM_ABORTED"].includes(result.errorCode!),
        `rank ${rank}: ${result.errorCode}`,
      );
    }
    const undisturbed = await trainFleet({ layout, job });
    assert.deepEqual(results[0]!.votes, undisturbed[0]!.votes);
    assert.deepEqual(wholeState(results), wholeState(undisturbed));
  });
}
