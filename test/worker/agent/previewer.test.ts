import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import pino from "pino";
import { resolveJob } from "../../../job/load_job.js";
import type { Report } from "../../../worker/agent/outbox.js";
import { Outbox } from "../../../worker/agent/outbox.js";
import { Previewer } from "../../../worker/agent/previewer.js";
import { ProcessRecords } from "../../../worker/agent/process_records.js";
import { scratchFolder } from "../../checkpoint/fixtures.js";
import { PEER_ACCESS } from "../../support/peers.js";

const job = resolveJob({
  name: "drawn",
  data: { media: "/data" },
  train: { steps: 1 },
  checkpoint: { uri: "file:///run" },
  sample: { every_steps: 10, prompts: ["a"] },
});

/** A previewer on a node that has no memory left, and what it reports. */
function withoutMemory() {
  const folder = scratchFolder();
  const reports: Report[] = [];
  const records = new ProcessRecords(path.join(folder, "processes"));
  const previewer = new Previewer({
    scratch: path.join(folder, "previews"),
    records,
    log: pino({ level: "silent" }),
    report: (report) => reports.push(report),
    memoryBytes: () => 2 ** 34,
    availableBytes: () => 50 * 2 ** 20,
  });
  const draw = (step: number) => {
    const state = { generation: "1", step };
    const source = {
      state,
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
      files: [],
      places: [],
      durable: null,
    };
    previewer.draw({ job, jobId: "j", generation: 1n, source, peers: PEER_ACCESS });
  };
  return { previewer, records, reports, draw };
}

test("Previewer leaves out what the node has no memory for, with the figures, and starts nothing; a repeat is none", () => {
  const { records, reports, draw } = withoutMemory();
  for (const step of [10, 10, 20]) draw(step);
  const told = reports.map((report) => {
    assert.ok(report.$case === "previewEnded" && report.value.outcome?.$case === "skipped");
    assert.match(
      report.value.outcome.value,
      /^drawing takes at most \d+ MiB, 50 MiB of the node are free, of which/,
    );
    return report.value.state?.step;
  });
  assert.deepEqual(told, [10n, 20n]);
  assert.deepEqual(records.all(), []);
});

test("Outbox does not tell a new leader of a preview that is due when it is being drawn or has been left out", () => {
  const outbox = new Outbox();
  const state = { generation: 1n, step: 10n };
  outbox.add({ $case: "previewDue", value: { generation: 1n, state } }, 0, true);
  outbox.previewAnswered({ generation: 1n, step: 5n });
  assert.deepEqual(
    outbox.repeat(0, true).map(({ $case }) => $case),
    ["previewDue"],
  );
  outbox.previewAnswered(state);
  assert.deepEqual(outbox.repeat(0, true), []);
});
