import assert from "node:assert/strict";
import { test } from "node:test";
import { incidentText } from "../../cli/format_incident.js";
import { Incident } from "../../gen/goku/v1/controller.pb.js";

const many = (what: string, count: number) => Array.from({ length: count }, (_, i) => `${what} ${i}`);

test("incidentText() fits a screen however much was kept, and says what it leaves out", () => {
  const stack = { rank: 3, nodeId: "node-b", lines: many("frame", 60) };
  const incident = Incident.fromPartial({
    what: "rank 3 on node-b has not moved",
    evidence: many("seen", 32),
    lastLines: many("printed", 20),
    stacks: [stack, stack, stack, stack],
  });
  const lines = incidentText(incident).split("\n");
  assert.ok(lines.length <= 45, `${lines.length} lines`);
  const left = lines.filter((line) => line.endsWith("gokuctl why --json"));
  assert.deepEqual(
    left.map((line) => line.trim()),
    [22, 14, 232].map((count) => `... ${count} lines more: gokuctl why --json`),
  );
  assert.ok(lines.includes("  seen 0") && lines.includes("  printed 19") && lines.includes("  frame 0"));
});

test("incidentText() leaves nothing out of a short one", () => {
  const short = { evidence: many("seen", 10), lastLines: many("printed", 6) };
  assert.doesNotMatch(incidentText(Incident.fromPartial(short)), /more/);
});
