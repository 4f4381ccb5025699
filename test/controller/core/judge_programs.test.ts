import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { judgePrograms, type ProgramSighting } from "../../../controller/core/judge_programs.js";

/** `beats` 0: it has not beaten; page null: not in sight. */
function sighting(
  rank: number,
  { step = 10, beats = 5, unchangedMs = 100, phase = "program", isSeen = true } = {},
): ProgramSighting {
  const page = {
    rank,
    pid: 1,
    step,
    microStep: beats,
    phase,
    layer: -1,
    entered: 0,
    completed: 0,
    collective: "",
    group: "",
    unchangedMs,
    blockedMs: 0,
    generation: 1,
    times: null,
  };
  return { rank, nodeId: `node-${rank}`, page: isSeen ? page : null };
}

const OPTIONAL = { limitMs: 5_000, required: false };

describe("judgePrograms()", () => {
  it("names the rank that stopped while others beat on", () => {
    const verdict = judgePrograms([sighting(0), sighting(1, { unchangedMs: 6_000 }), sighting(2)], OPTIONAL);
    assert.deepEqual(
      verdict?.late.map(({ rank }) => rank),
      [1],
    );
    assert.equal(
      verdict?.reason,
      "rank 1 on node-1: no heartbeat for 6.0 s, the last at step 10; 2 others went on",
    );
  });

  it("names those behind in steps where all have stopped", () => {
    const verdict = judgePrograms(
      [0, 1, 2].map((rank) => sighting(rank, { step: rank === 2 ? 9 : 10, unchangedMs: 7_000 })),
      OPTIONAL,
    );
    assert.deepEqual(
      verdict?.late.map(({ rank }) => rank),
      [2],
    );
  });

  it("names nobody where all have stopped at one step, and says so", () => {
    const verdict = judgePrograms(
      [0, 1].map((rank) => sighting(rank, { unchangedMs: 7_000 })),
      OPTIONAL,
    );
    assert.deepEqual(verdict, {
      late: [],
      reason: "all 2 ranks that beat: no heartbeat for 7.0 s, the last at step 10",
    });
  });

  it("leaves alone who has never beaten, has ended, or cannot be seen", () => {
    const quiet = { unchangedMs: 60_000 };
    const others = [
      sighting(1, { ...quiet, beats: 0, step: 0 }),
      sighting(2, { ...quiet, phase: "finished" }),
      sighting(3, { ...quiet, isSeen: false }),
    ];
    assert.equal(judgePrograms([sighting(0), ...others], OPTIONAL), null);
  });

  it("judges who has never beaten where every rank must", () => {
    const silent = sighting(1, { beats: 0, step: 0, unchangedMs: 6_000 });
    const verdict = judgePrograms([sighting(0), silent], { limitMs: 5_000, required: true });
    assert.equal(verdict?.reason, "rank 1 on node-1: no heartbeat for 6.0 s; 1 other went on");
  });

  it("names the only rank that beats", () => {
    const verdict = judgePrograms(
      [sighting(0, { unchangedMs: 6_000 }), sighting(1, { beats: 0, unchangedMs: 6_000 })],
      OPTIONAL,
    );
    assert.deepEqual(
      verdict?.late.map(({ rank }) => rank),
      [0],
    );
  });
});
