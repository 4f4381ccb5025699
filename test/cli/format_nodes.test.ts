import assert from "node:assert/strict";
import { test } from "node:test";
import { nodesText } from "../../cli/format_nodes.js";
import { NodeStatus } from "../../gen/goku/v1/controller.pb.js";

test("nodesText() says of a node that a job avoids which job, why, and what ends that", () => {
  const reason = "rank 2 on node-b is slow";
  const until = new Date("2026-01-02T03:04:05Z");
  const avoided = [{ job: "shapes", nodeId: "node-b", reason, until }];
  const text = nodesText([NodeStatus.fromPartial({ nodeId: "node-b", connected: true, avoided })]);
  assert.match(text, /node-b is avoided by job shapes: rank 2 on node-b is slow\n/);
  assert.match(
    text,
    /after 2026-01-02T03:04:05.000Z, when it passes: gokuctl diagnose node-b, or after: gokuctl nodes release node-b/,
  );
});

test("nodesText() shows the newest signs of a node's machine, not those of its ranks' output, and what nobody watches once", () => {
  const sign = (kind: string, second: number, more = {}) => ({
    kind,
    device: "0000:3b:00",
    text: `NVRM: ${kind}`,
    meaning: "it is broken",
    count: 1,
    at: new Date(Date.UTC(2026, 0, 2, 3, 4, second)),
    ...more,
  });
  const signals = [
    sign("xid.79", 9),
    sign("log.nccl", 8, { rank: 2 }),
    sign("kernel.disk_error", 7, { device: "", count: 100 }),
    sign("xid.31", 6),
    sign("xid.13", 5),
  ];
  const unwatched = ["the kernel's log: EPERM"];
  const names = Array.from({ length: 12 }, (_, i) => `n${String(i).padStart(2, "0")}`);
  const nodes = names.map((nodeId, i) =>
    NodeStatus.fromPartial({ nodeId, connected: true, signals: i === 3 ? signals : [], unwatched }),
  );
  const lines = nodesText(nodes).split("\n").slice(13);
  assert.deepEqual(lines, [
    "n03 told at 2026-01-02T03:04:09.000Z: xid.79 0000:3b:00: it is broken",
    "  NVRM: xid.79",
    "n03 told at 2026-01-02T03:04:07.000Z, 100 times: kernel.disk_error: it is broken",
    "  NVRM: kernel.disk_error",
    "n03 told at 2026-01-02T03:04:06.000Z: xid.31 0000:3b:00: it is broken",
    "  NVRM: xid.31",
    "not watched on n00, n01, n02, n03, n04, n05, n06, n07 and 4 more: the kernel's log: EPERM",
  ]);
});
