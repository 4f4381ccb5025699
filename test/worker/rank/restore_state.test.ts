import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { readSnapshotHeader, snapshotLayout } from "../../../checkpoint/snapshot.js";
import { modelConfig } from "../../../job/job.js";
import type { Layout } from "../../../job/layout.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits } from "../../../job/sharding.js";
import { KeptReplicas } from "../../../worker/agent/kept_replicas.js";
import { SnapshotStore } from "../../../worker/agent/snapshot_store.js";
import type { FromRank, MemorySource, ToRank } from "../../../worker/rank_messages.js";
import {
  layoutOf,
  metaOf,
  saveAndCommit,
  scratchFolder,
  snapshotPage,
  state,
  type TestModel,
} from "../../checkpoint/fixtures.js";
import { peerServer } from "../../support/peers.js";
import { Rank, smallJob, sourceOf } from "./rank_harness.js";

const scratch = scratchFolder();
const job = smallJob({});
const specs = parameterSpecs(modelConfig(job));
const model: TestModel = { specs, units: flatUnits(specs) };
const STATE = state(3, 9);
const alone = layoutOf("1x1x1");
const two = layoutOf("1x2x1");
let folders = 0;

function pageOf(layout: Layout, rank: number): Uint8Array {
  return snapshotPage(model, layout, rank, metaOf(STATE, layout));
}

/** The data of the whole state, as the one rank of 1x1x1 has them. */
const whole = Buffer.from(pageOf(alone, 0)).subarray(
  snapshotLayout(model.units, alone, 0).entries[0]!.byteOffset,
);

function fileOf(page: Uint8Array): string {
  const file = path.join(scratch, `page-${folders++}`);
  writeFileSync(file, page);
  return file;
}

/** Another node that holds one snapshot. */
async function nodeWith(
  t: { after: (end: () => void) => void },
  layout: Layout,
  rank: number,
  page: Uint8Array,
) {
  const store = new SnapshotStore(path.join(scratch, `node-${folders++}`));
  writeFileSync(path.join(store.create("j", rank, `${layout}`), "slot-0"), page);
  const server = peerServer(store, new KeptReplicas(store));
  const port = await server.start("127.0.0.1");
  t.after(() => server.close());
  return { rank, nodeId: "elsewhere", host: "127.0.0.1", port };
}

/** What the one rank of 1x1x1 says when it restores, and whether one of its slots then holds the state. */
async function restore(
  source: Partial<MemorySource>,
  own: Uint8Array | null = null,
): Promise<{ answer: Extract<FromRank, { kind: "restored" | "failed" }>; held: boolean; ownWhole: boolean }> {
  const folder = path.join(scratch, `rank-${folders++}`);
  const set = path.join(folder, "set");
  mkdirSync(set, { recursive: true });
  const ownFile = path.join(set, "slot-2");
  if (own !== null) writeFileSync(ownFile, own);
  const files = [...(own === null ? [] : [{ rank: 0, path: ownFile }]), ...(source.files ?? [])];
  const rank = new Rank({ job, folder, openSource: async (_, digest) => sourceOf(job, digest ?? "none") });
  await rank.prepare("4", set);
  await rank.connect("4");
  const from = { state: STATE, layout: alone.size, places: [], durable: null, ...source, files };
  const command = {
    kind: "restore",
    generation: "4",
    source: { kind: "snapshot", ...from },
    rollBacks: [],
  } satisfies ToRank;
  const answer = await rank.ask(command, "restored");
  const held = readdirSync(set).some((name) => {
    const page = readFileSync(path.join(set, name));
    return page.subarray(page.byteLength - whole.byteLength).equals(whole);
  });
  return { answer, held, ownWhole: readSnapshotHeader(ownFile) !== null };
}

function sources(answer: FromRank): string[] {
  assert.equal(answer.kind, "restored", "message" in answer ? answer.message : "");
  return answer.kind === "restored" ? answer.parts.map(({ source }) => source) : [];
}

/** A bit of the first data flips. */
function flipped(page: Uint8Array): Uint8Array {
  const damaged = Buffer.from(page);
  damaged[damaged.byteLength - whole.byteLength + 2]! ^= 8;
  return damaged;
}

test("a rank restores a state of another layout from snapshots in memory, one here and one on another node", async (t) => {
  const files = [{ rank: 0, path: fileOf(pageOf(two, 0)) }];
  const places = [await nodeWith(t, two, 1, pageOf(two, 1))];
  const { answer, held } = await restore({ layout: two.size, files, places });
  assert.deepEqual(sources(answer).sort(), ["rank 0 on this node", "rank 1 on elsewhere"]);
  assert.ok(held);
});

test("a rank takes what is damaged in its own snapshot from another node's, and gives its own up", async (t) => {
  const places = [await nodeWith(t, alone, 0, pageOf(alone, 0))];
  const { answer, held, ownWhole } = await restore({ places }, flipped(pageOf(alone, 0)));
  assert.deepEqual(sources(answer), ["rank 0 on this node", "rank 0 on elsewhere"]);
  assert.match(answer.kind === "restored" ? answer.parts[1]!.insteadOf : "", /differ from their checksum/);
  assert.ok(held && !ownWhole);
});

test("a rank takes what no memory holds undamaged from the checkpoint of the same state", async (t) => {
  const storage = `file://${scratch}/run`;
  const slots = path.join(scratch, "slots");
  await saveAndCommit({ storage, model, layout: two, meta: metaOf(STATE, two), slots });
  const durable = { uri: `${storage}/checkpoint-9`, state: STATE };
  const places = [await nodeWith(t, alone, 0, flipped(pageOf(alone, 0)))];
  const mended = await restore({ places, durable }, flipped(pageOf(alone, 0)));
  assert.deepEqual(sources(mended.answer), ["rank 0 on this node", durable.uri]);
  assert.ok(mended.held);
  const lost = await restore({ places: [], durable });
  assert.deepEqual(sources(lost.answer), [durable.uri]);
  assert.ok(lost.held);
});

test("a rank that finds a state nowhere says what each source failed with", async (t) => {
  const places = [await nodeWith(t, alone, 0, flipped(pageOf(alone, 0)))];
  const { answer, held } = await restore({ places });
  assert.ok(answer.kind === "failed" && answer.code === "SNAPSHOT_MISSING" && !held);
  assert.match(
    answer.kind === "failed" ? answer.message : "",
    /rank 0 on elsewhere: .*differ from their checksum.*take the next source/,
  );
});

test("a rank that cannot reach a node names a rank of it: what lies there is not given up", async () => {
  const places = [{ rank: 0, nodeId: "n", host: "127.0.0.1", port: 1 }];
  const { answer } = await restore({ places });
  assert.ok(answer.kind === "failed");
  assert.deepEqual([answer.code, answer.peer], ["COMM_PEER_DIED", 0]);
  assert.match(answer.message, /rank 0 on n: .*ECONNREFUSED/);
});
