import assert from "node:assert/strict";
import { test } from "node:test";
import { jobDetail, jobsTable, progressLine } from "../../cli/format_job.js";
import { jobJson } from "../../controller/api/json.js";
import { JobPhase, JobStatus } from "../../gen/goku/v1/controller.pb.js";

const status = JobStatus.fromPartial({ name: "shapes", phase: JobPhase.RUNNING, step: 7n, stepsTotal: 10n });

test("jobDetail() says how the state in memory is protected, and up to which step", () => {
  const protection = "replicas: 4 ranks keep a copy on another node";
  const detail = jobDetail({ ...status, protection, replicatedStep: 5n });
  assert.match(detail, /^replicated +step 5$/m);
  assert.match(detail, /^protection +replicas: 4 ranks keep a copy on another node$/m);
});

test("jobDetail() of a job of which nothing is replicated yet names no step", () => {
  const detail = jobDetail(status);
  assert.match(detail, /^replicated +-$/m);
  assert.doesNotMatch(detail, /protection/);
  const { protection, replicated_step } = jobJson(status);
  assert.deepEqual({ protection, replicated_step }, { protection: null, replicated_step: null });
});

test("jobDetail() says of the newest checkpoint what was read back of it", () => {
  const uri = "file:///run/checkpoint-7";
  const at = new Date("2026-12-01T12:03:11Z");
  const line = (read?: { whole: number; of: number; at: Date }) =>
    /^checkpoint +(.*)$/m.exec(jobDetail({ ...status, checkpointUri: uri, checkpointRead: read }))![1];
  assert.equal(line(), `${uri} (not read since)`);
  assert.equal(line({ whole: 3, of: 4, at }), `${uri} (3 of 4 parts read back, whole)`);
  assert.equal(line({ whole: 4, of: 4, at }), `${uri} (verified 12:03:11)`);
  assert.deepEqual(
    jobJson({ ...status, checkpointUri: uri, checkpointRead: { whole: 4, of: 4, at } }).checkpoint?.read,
    { whole: 4, of: 4, at: at.toISOString() },
  );
});

test("jobDetail() says where ranks are by runs of a node, of a large job the first", () => {
  const of = (count: number) => Array.from({ length: count }, (_, rank) => `node-${Math.floor(rank / 8)}`);
  assert.match(
    jobDetail({ ...status, rankNodes: of(17) }),
    /^ranks +0-7 on node-0, 8-15 on node-1, 16 on node-2$/m,
  );
  assert.match(
    jobDetail({ ...status, rankNodes: of(12_288) }),
    /^ranks .*120-127 on node-15 and 12160 more$/m,
  );
});

test("a job whose program alone knows its steps has no bar, and says when it tells none", () => {
  const program = JobStatus.fromPartial({ name: "ddp", phase: JobPhase.RUNNING, step: 7n, stepsTotal: 0n });
  assert.equal(progressLine(program), "step 7");
  assert.match(jobsTable([program]), /ddp +RUNNING +7 /);
  const silent = { ...program, step: 0n };
  assert.equal(progressLine(silent), "its program tells no step");
  assert.match(jobsTable([silent]), /ddp +RUNNING +- /);
});

test("jobDetail() shows the slow ranks with what was seen, after the heat map; jobJson() has the same", () => {
  const slow = JobStatus.fromPartial({
    ...status,
    rankNodes: ["a", "a", "b"],
    rankSlowness: [1, 1.5, 0],
    stragglers: [{ nodeId: "a", rank: 1, slowness: 1.5, evidence: "1.50 times the time of the others" }],
  });
  const lines = jobDetail(slow, { columns: 80, rows: 10 }).split("\n");
  assert.deepEqual(lines.slice(-4), [
    "slowness  slowest 1.50: rank 1 on a",
    "  a  0: 1.00  1: 1.50*",
    "  b  2: ·",
    "  rank 1 on a: 1.50 times the time of the others",
  ]);
  const { rank_slowness, stragglers } = jobJson(slow);
  assert.deepEqual(rank_slowness, [1, 1.5, null]);
  assert.deepEqual(stragglers, [
    { node_id: "a", rank: 1, slowness: 1.5, evidence: "1.50 times the time of the others" },
  ]);
});

test("jobDetail() names the nodes that the job does without, why and until when", () => {
  const until = new Date("2026-01-02T03:04:05Z");
  const avoided = [{ job: "shapes", nodeId: "node-b", reason: "rank 2 on node-b is slow", until }];
  assert.match(
    jobDetail({ ...status, avoided }),
    /avoided nodes +node-b until 2026-01-02T03:04:05.000Z \(rank 2 on node-b is slow\)/,
  );
  assert.doesNotMatch(jobDetail(status), /avoided/);
});
