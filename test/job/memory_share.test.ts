import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryShare } from "../../job/memory_share.js";

const GIB = 2 ** 30;
const CASES: { name: string; options: Parameters<typeof memoryShare>[0]; want: number }[] = [
  {
    name: "alone on a machine",
    options: { machineBytes: 64 * GIB, limitBytes: 0, agents: 1 },
    want: 64 * GIB,
  },
  {
    name: "alone in a container",
    options: { machineBytes: 64 * GIB, limitBytes: 8 * GIB, agents: 1 },
    want: 8 * GIB,
  },
  {
    name: "a limit beyond the machine",
    options: { machineBytes: 8 * GIB, limitBytes: 64 * GIB, agents: 1 },
    want: 8 * GIB,
  },
  { name: "three on one machine", options: { machineBytes: 10, limitBytes: 0, agents: 3 }, want: 3 },
  {
    name: "two in one container",
    options: { machineBytes: 64 * GIB, limitBytes: 8 * GIB, agents: 2 },
    want: 4 * GIB,
  },
];
for (const { name, options, want } of CASES)
  test(`memoryShare(): ${name}`, () => assert.equal(memoryShare(options), want));
