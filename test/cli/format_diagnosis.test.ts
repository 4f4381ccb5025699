import assert from "node:assert/strict";
import { test } from "node:test";
import { diagnosisText } from "../../cli/format_diagnosis.js";
import { Diagnosis, type JudgedCheck } from "../../gen/goku/v1/controller.pb.js";

const check = (
  name: string,
  value: number,
  more: { unit?: string; median?: number; verdict?: string } = {},
): JudgedCheck => {
  const { unit = "GB/s", median, verdict = "ok" } = more;
  return { result: { name, ok: verdict !== "failed", value, unit, detail: "", seconds: 1 }, median, verdict };
};

const diagnosis = Diagnosis.fromPartial({
  id: 1n,
  done: true,
  nodes: [
    {
      nodeId: "node-a",
      verdict: "passed",
      checks: [
        check("memory", 256, { unit: "MiB" }),
        check("matrix", 141.2, { unit: "GFLOPS", median: 139 }),
        check("copy", 12.34, { median: 12.2 }),
        check("disk", 1_350.2, { unit: "MB/s", median: 1_320 }),
        check("checkpoint_disk", 420, { unit: "MB/s" }),
        check("loopback", 1.2, { median: 1.3 }),
        check("clock", -3, { unit: "ms", median: 2 }),
        check("collective", 0.9, { median: 0.9 }),
      ],
    },
    {
      nodeId: "node-b",
      verdict: "failed",
      reason: "memory failed: bits differ; copy is 3 GB/s",
      checks: [
        check("memory", 0, { unit: "", verdict: "failed" }),
        check("copy", 3, { median: 12.2, verdict: "slow" }),
      ],
    },
    { nodeId: "node-c", verdict: "skipped", reason: "busy: runs job shapes" },
  ],
  badLinks: ["node-a, node-d"],
});
const notes = [
  "node-b failed: memory failed: bits differ; copy is 3 GB/s",
  "node-c skipped: busy: runs job shapes",
  "collectives fail between node-a, node-d, which succeed with others",
  "node-b gets no ranks until it passes: see gokuctl nodes",
];

test("diagnosisText() on a wide terminal has a row for each node, and one for the fleet's medians", () => {
  const lines = diagnosisText(diagnosis, 120).split("\n");
  assert.match(
    lines[0]!,
    /^NODE +VERDICT +MEMORY +MATRIX +COPY +DISK +CHECKPOINT +LOOPBACK +CLOCK +COLLECTIVE$/,
  );
  const words = (start: string) => lines.find((line) => line.startsWith(start))!.split(/ {2,}/);
  assert.deepEqual(words("node-a"), [
    "node-a",
    "passed",
    "256",
    "141",
    "12.3",
    "1350",
    "420",
    "1.2",
    "-3",
    "0.9",
  ]);
  assert.deepEqual(words("node-b").slice(0, 5), ["node-b", "failed", "FAILED", "-", "3 SLOW"]);
  assert.deepEqual(words("median"), ["median", "-", "139", "12.2", "1320", "-", "1.3", "2", "0.9"]);
  assert.deepEqual(lines.slice(-4), notes);
});

test("diagnosisText() on a narrow terminal gives each check of a node a line, none of them too long", () => {
  const lines = diagnosisText(diagnosis, 80).split("\n");
  assert.ok(lines.every((line) => line.length <= 80));
  assert.match(lines.join("\n"), /^ +matrix +141 GFLOPS +139 +ok$/m);
  assert.match(lines.join("\n"), /^ +memory +- +- +failed$/m);
  assert.deepEqual(lines.slice(-4), notes);
});
