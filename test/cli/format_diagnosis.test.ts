import assert from "node:assert/strict";
import { test } from "node:test";
import { diagnosisText } from "../../cli/format_diagnosis.js";
import type { CheckedDevice } from "../../gen/goku/v1/agent.pb.js";
import { Diagnosis, type JudgedCheck } from "../../gen/goku/v1/controller.pb.js";

const check = (
  name: string,
  value: number,
  more: { unit?: string; median?: number; verdict?: string; device?: CheckedDevice } = {},
): JudgedCheck => {
  const { unit = "GB/s", median, verdict = "ok", device } = more;
  return {
    result: { name, ok: verdict !== "failed", value, unit, detail: "", seconds: 1, device },
    median,
    verdict,
  };
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

const devices = Diagnosis.fromPartial({
  id: 1n,
  done: true,
  nodes: [
    {
      nodeId: "node-a",
      verdict: "failed",
      reason: "device_matrix of device 1 (H200) failed: block 3 differs",
      checks: [
        check("copy", 12, { median: 12 }),
        ...[0, 1].flatMap((index) => [
          check("device_matrix", index === 1 ? 0 : 41_000, {
            unit: "GFLOPS",
            median: 40_000,
            verdict: index === 1 ? "failed" : "ok",
            device: { index, name: "H200" },
          }),
          check("device_copy", 2_000, { median: 2_100, device: { index, name: "H200" } }),
        ]),
      ],
    },
    {
      nodeId: "node-b",
      verdict: "passed",
      checks: [
        check("copy", 13, { median: 12 }),
        check("device_copy", 900, { device: { index: 0, name: "L4" } }),
      ],
    },
  ],
});

test("diagnosisText() has a table of devices, with medians of each name that is compared", () => {
  const text = diagnosisText(devices, 120);
  const rows = text.split("\n").map((line) => line.split(/ {2,}/));
  assert.deepEqual(
    rows.filter(([first]) => ["NODE", "node-a", "node-b", "median"].includes(first!)),
    [
      ["NODE", "VERDICT", "COPY"],
      ["node-a", "failed", "12"],
      ["node-b", "passed", "13"],
      ["median", "12"],
      ["NODE", "DEVICE", "MATRIX", "COPY"],
      ["node-a", "0: H200", "41000", "2000"],
      ["node-a", "1: H200", "FAILED", "2000"],
      ["node-b", "0: L4", "-", "900"],
      ["median", "H200", "40000", "2100"],
    ],
    text,
  );
  assert.match(text, /^node-a failed: device_matrix of device 1 \(H200\) failed: block 3 differs$/m);
});

test("diagnosisText() on a narrow terminal puts each device's checks below its name", () => {
  const lines = diagnosisText(devices, 24).split("\n");
  const at = lines.findIndex((line) => /^ +device 1: H200$/.test(line));
  assert.match(lines[at + 1]!, /^ +device_matrix +- +40000 +failed$/);
  assert.match(lines[at + 2]!, /^ +device_copy +2000 GB\/s +2100 +ok$/);
});
