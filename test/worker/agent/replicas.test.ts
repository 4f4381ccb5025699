import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { pino } from "pino";
import { readMemory } from "../../../checkpoint/read_memory.js";
import {
  beginSnapshot,
  readSnapshotHead,
  readSnapshotHeader,
  SnapshotReader,
  sealSnapshot,
  snapshotLayout,
  verifySnapshot,
} from "../../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateName } from "../../../checkpoint/state.js";
import type { ReplicaOffer, ReplicateResponse, SnapshotChunk } from "../../../gen/goku/v1/peer.pb.js";
import type { GokuError } from "../../../job/errors.js";
import { type IncomingChunks, KeptReplicas } from "../../../worker/agent/kept_replicas.js";
import { RateLimiter } from "../../../worker/agent/rate_limiter.js";
import { type ReplicaOrder, Replicator } from "../../../worker/agent/replicator.js";
import { SnapshotStore } from "../../../worker/agent/snapshot_store.js";
import { wireLayout, wireState } from "../../../worker/agent/wire.js";
import { remoteSnapshot } from "../../../worker/rank/remote_snapshot.js";
import {
  layoutOf,
  metaOf,
  modelOf,
  refuses,
  scratchFolder,
  snapshotPage,
  state,
} from "../../checkpoint/fixtures.js";
import { PEER_ACCESS, peerServer } from "../../support/peers.js";

const layout = layoutOf("1x2x1");
/** Some MiB for rank 0. */
const MODEL = modelOf({ "blocks.0.mlp.fc1.weight": [512, 1024], "patch_embed.bias": [9] });
const quiet = pino({ level: "silent" });
const scratch = scratchFolder();
let files = 0;

/** By step: making one takes longer than sending it. */
const pages = new Map<number, Uint8Array>();

function slotOf(step: number): { state: StateName; slotPath: string } {
  const name = state(1, step);
  const page = pages.get(step) ?? snapshotPage(MODEL, layout, 0, metaOf(name, layout));
  pages.set(step, page);
  const slotPath = path.join(scratch, `slot-${files++}`);
  writeFileSync(slotPath, page);
  return { state: name, slotPath };
}

/** The node that keeps rank 0's copies. */
async function keeper(t: { after: (end: () => void) => void }) {
  const store = new SnapshotStore(path.join(scratch, `keeper-${files++}`));
  const kept = new KeptReplicas(store);
  const server = peerServer(store, kept);
  const port = await server.start("127.0.0.1");
  t.after(() => server.close());
  const begin = (generation: bigint, ranks = [0]) =>
    kept.begin({ jobId: "job", generation, layout: layout.toString(), ranks });
  begin(1n);
  const held = () =>
    store
      .sets("job")
      .flatMap((set) => set.held)
      .map((one) => one.state.step)
      .sort((a, b) => a - b);
  return { store, kept, server, port, begin, held };
}

function offerOf(slotPath: string, of: StateName, kept: StateName | null = null): ReplicaOffer {
  return {
    jobId: "job",
    generation: 1n,
    rank: 0,
    layout: wireLayout(layout),
    state: wireState(of),
    head: readSnapshotHead(slotPath)!,
    kept: kept === null ? undefined : wireState(kept),
  };
}

/** The chunks of a snapshot from one on, as a sender sends them. */
function sent(slotPath: string, from: number, change?: (chunk: SnapshotChunk) => void): IncomingChunks {
  return { chunks: chunksOf(slotPath, from, change), stop: () => {} };
}

/** `change` may do something to a chunk, or break off by throwing. */
async function* chunksOf(
  slotPath: string,
  from: number,
  change: (chunk: SnapshotChunk) => void = () => {},
): AsyncGenerator<SnapshotChunk> {
  const reader = await SnapshotReader.open(slotPath);
  try {
    const { length } = reader.header.checksums;
    for await (const { index, bytes } of reader.chunks(
      Array.from({ length: length - from }, (_, i) => from + i),
    )) {
      const chunk = { index, data: Buffer.from(bytes) };
      change(chunk);
      yield chunk;
    }
  } finally {
    await reader.close();
  }
}

/** Whether the keeper has it whole in the end. */
function sendOnce(
  replicator: Replicator,
  order: ReplicaOrder,
  failing: (error: GokuError) => void = () => {},
): Promise<boolean> {
  return new Promise((settled) => replicator.send(order, { settled, failing }));
}

test("a snapshot sent to another node is there whole, bit for bit, and is not sent twice", async (t) => {
  const { store, port, held } = await keeper(t);
  const replicator = new Replicator(quiet);
  t.after(() => replicator.begin());
  const { state: name, slotPath } = slotOf(5);
  const order: ReplicaOrder = {
    jobId: "job",
    generation: 1n,
    layout,
    rank: 0,
    state: name,
    kept: null,
    slotPath,
    keeper: { nodeId: "b", host: "127.0.0.1", port },
    access: PEER_ACCESS,
    bytesPerSecond: 2 ** 40,
  };
  assert.equal(await sendOnce(replicator, order), true);
  assert.deepEqual(held(), [5]);
  const copy = store.sets("job")[0]!.held[0]!.path;
  assert.ok(readFileSync(copy).equals(readFileSync(slotPath)));
  assert.equal(await sendOnce(replicator, order), true);
  assert.equal(readdirSync(path.dirname(copy)).length, 1, "no other slot was taken");
  const order2 = { ...order, ...slotOf(6), kept: name };
  assert.equal(await sendOnce(replicator, order2), true);
  assert.deepEqual(held(), [5, 6]);
});

test("a sender tries until its keeper answers, and hears nothing once its generation is over", async (t) => {
  const { port, begin, held } = await keeper(t);
  begin(2n); // the keeper is ahead: it refuses generation 1 until it is given that again
  const replicator = new Replicator(quiet);
  const order = {
    jobId: "job",
    generation: 1n,
    layout,
    rank: 0,
    kept: null,
    access: PEER_ACCESS,
    bytesPerSecond: 2 ** 40,
  };
  const sent = { ...order, ...slotOf(5), keeper: { nodeId: "b", host: "127.0.0.1", port } };
  const settled = sendOnce(replicator, sent);
  const heard: boolean[] = [];
  setTimeout(() => begin(1n), 20);
  assert.equal(await settled, true);
  assert.deepEqual(held(), [5]);
  // Would be told at once, since it is there already.
  replicator.send(sent, { settled: (whole) => heard.push(whole), failing: () => {} });
  replicator.begin();
  await sendOnce(replicator, sent);
  assert.deepEqual(heard, []);
  replicator.begin();
});

test("a replica that a keeper does not take for a while is told once, and sent when it does", async (t) => {
  const { port, begin } = await keeper(t);
  begin(2n);
  const replicator = new Replicator(quiet, { firstMs: 1, longestMs: 1 });
  t.after(() => replicator.begin());
  const order = {
    jobId: "job",
    generation: 1n,
    layout,
    rank: 0,
    kept: null,
    bytesPerSecond: 2 ** 40,
    access: PEER_ACCESS,
  };
  const sent = { ...order, ...slotOf(5), keeper: { nodeId: "b", host: "127.0.0.1", port } };
  const told: string[] = [];
  let isSettled = false;
  const whole = sendOnce(replicator, sent, ({ message }) => {
    assert.equal(isSettled, false);
    told.push(message);
    setTimeout(() => begin(1n), 20); // more tries meanwhile, of which nothing is told
  }).then((value) => {
    isSettled = true;
    return value;
  });
  assert.equal(await whole, true);
  assert.equal(told.length, 1, told.join("\n"));
  assert.match(told[0]!, /generation 1/);
});

test("a snapshot that is damaged in the sender's memory is not sent, and that is told", async (t) => {
  const { port, held } = await keeper(t);
  const replicator = new Replicator(quiet);
  t.after(() => replicator.begin());
  const { state: name, slotPath } = slotOf(5);
  const bytes = readFileSync(slotPath);
  bytes[bytes.byteLength - 70]! ^= 2;
  writeFileSync(slotPath, bytes);
  const order = {
    jobId: "job",
    generation: 1n,
    layout,
    rank: 0,
    kept: null,
    access: PEER_ACCESS,
    bytesPerSecond: 2 ** 40,
  };
  const sent = { ...order, state: name, slotPath, keeper: { nodeId: "b", host: "127.0.0.1", port } };
  const told: string[] = [];
  assert.equal(await sendOnce(replicator, sent, ({ code }) => told.push(code)), false);
  assert.deepEqual([held(), told], [[], ["CHECKPOINT_CORRUPT"]]);
});

test("a bit that flips on the way is found by the keeper, which takes the copy up where it was", async (t) => {
  const { kept, held } = await keeper(t);
  const { state: name, slotPath } = slotOf(5);
  const offer = offerOf(slotPath, name);
  const flip = (chunk: SnapshotChunk) => {
    if (chunk.index === 3) chunk.data[7]! ^= 1;
  };
  await assert.rejects(
    kept.receive(offer, sent(slotPath, 0, flip), () => {}),
    refuses("CHECKPOINT_CORRUPT", /chunk 3 differs from its checksum/),
  );
  assert.deepEqual(held(), [], "nothing half is taken for whole");
  const answers: ReplicateResponse[] = [];
  await kept.receive(offer, sent(slotPath, 3), (answer) => answers.push(answer));
  assert.deepEqual(answers[0], { chunks: 3, whole: false }, "three chunks need not come again");
  assert.equal(answers.at(-1)!.whole, true);
  assert.deepEqual(held(), [5]);
  const again: ReplicateResponse[] = [];
  await kept.receive(offer, sent(slotPath, 0), (answer) => again.push(answer));
  assert.deepEqual(again, [{ chunks: 0, whole: true }]);
});

test("a stream that fell silent does not hold up the one that comes after it, which goes on where it was", async (t) => {
  const { kept, held } = await keeper(t);
  const { state: name, slotPath } = slotOf(5);
  let hangUp = () => {};
  const hungUp = new Promise<void>((resolve) => {
    hangUp = resolve;
  });
  async function* silent(): AsyncGenerator<SnapshotChunk> {
    for await (const chunk of chunksOf(slotPath, 0)) {
      if (chunk.index === 2) await hungUp;
      yield chunk;
    }
  }
  let begun = () => {};
  const first = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const offer = offerOf(slotPath, name);
  const stuck = kept.receive(offer, { chunks: silent(), stop: hangUp }, () => begun());
  stuck.catch(() => {});
  await first;
  const here: number[] = [];
  async function* rest(): AsyncGenerator<SnapshotChunk> {
    yield* chunksOf(slotPath, here[0]!);
  }
  await kept.receive(offer, { chunks: rest(), stop: () => {} }, ({ chunks }) => here.push(chunks));
  await assert.rejects(stuck, refuses("STATE_INVALID", /a newer one has begun/));
  assert.deepEqual(held(), [5]);
});

test("a keeper needs no second copy of a state that a newcomer sealed again, and gives none up for it", async (t) => {
  const { kept, held, store } = await keeper(t);
  const receive = async (step: number, safe: number | null, page: Uint8Array | null = null) => {
    const { state: name, slotPath } = slotOf(step);
    if (page !== null) writeFileSync(slotPath, page);
    const answers: ReplicateResponse[] = [];
    const offer = offerOf(slotPath, name, safe === null ? null : state(1, safe));
    await kept.receive(offer, sent(slotPath, 0), (answer) => answers.push(answer));
    return answers;
  };
  await receive(5, null);
  const again = Buffer.from(pages.get(5)!);
  beginSnapshot(again);
  const { entries, checksums } = readSnapshotHeader(store.sets("job")[0]!.held[0]!.path)!;
  const counts = entries.map(({ byteOffset, bytes }) => ({
    kind: "model" as const,
    unit: "",
    byteOffset,
    count: bytes / 4,
  }));
  sealSnapshot(again, { meta: metaOf(state(1, 5), layout), rank: 0, entries: counts, checksums });
  assert.deepEqual(await receive(5, 5, again), [{ chunks: 0, whole: true }], "sealed anew, and the same");
  const other = snapshotPage(MODEL, layout, 0, metaOf(state(1, 5), layout, { version: "other" }));
  await receive(5, 5, other);
  assert.deepEqual(held(), [5, 5], "another head makes it another snapshot");
  await receive(6, 5);
  assert.deepEqual(held(), [5, 6], "one of two copies of the kept state is enough");
});

test("a keeper protects what its own ranks restored when a newcomer cannot say what is kept", async (t) => {
  const { kept, held, begin } = await keeper(t);
  const receive = (step: number, change?: (chunk: SnapshotChunk) => void) => {
    const { state: name, slotPath } = slotOf(step);
    return kept.receive(offerOf(slotPath, name), sent(slotPath, 0, change), () => {});
  };
  await receive(5);
  await receive(6);
  begin(1n);
  kept.keepSafe(state(1, 5));
  const cut = receive(7, ({ index }) => {
    if (index > 1) throw new Error("cut off");
  });
  await assert.rejects(cut, /cut off/);
  assert.deepEqual(held(), [5]);
});

test("a keeper takes nothing under a name that its head does not bear", async (t) => {
  const { kept, held, begin } = await keeper(t);
  begin(1n, [0, 1]);
  const { state: name, slotPath } = slotOf(5);
  const offer = offerOf(slotPath, name);
  for (const wrong of [{ rank: 1 }, { state: wireState(state(1, 6)) }]) {
    const refused = kept.receive({ ...offer, ...wrong }, sent(slotPath, 0), () => {});
    await assert.rejects(refused, refuses("ARGUMENT_INVALID", /the head is of step 5 of rank 0/));
  }
  const cut = { ...offer, head: offer.head.subarray(0, 50) };
  await assert.rejects(
    kept.receive(cut, sent(slotPath, 0), () => {}),
    refuses("ARGUMENT_INVALID", /is damaged/),
  );
  assert.deepEqual(held(), []);
});

test("a keeper never gives up the copy that all ranks count on, whatever else comes in or breaks off", async (t) => {
  const { kept, held } = await keeper(t);
  const receive = (step: number, safe: number | null, change?: (chunk: SnapshotChunk) => void) => {
    const { state: name, slotPath } = slotOf(step);
    const offer = offerOf(slotPath, name, safe === null ? null : state(1, safe));
    return kept.receive(offer, sent(slotPath, 0, change), () => {});
  };
  const cut = (chunk: SnapshotChunk) => {
    if (chunk.index > 1) throw new Error("cut off");
  };
  await receive(5, null);
  await receive(6, null);
  await receive(7, 5); // 6 was given up by some other rank
  assert.deepEqual(held(), [5, 7]);
  await assert.rejects(receive(8, 5, cut), /cut off/);
  await assert.rejects(receive(9, 5, cut), /cut off/);
  assert.deepEqual(held(), [5]);
  await receive(10, 5);
  await receive(11, 10);
  assert.deepEqual(held(), [10, 11]);
});

test("a keeper takes nothing of another generation, rank, layout or job, and cuts off what came for an older one", async (t) => {
  const { kept, begin, held } = await keeper(t);
  const { state: name, slotPath } = slotOf(5);
  const offer = offerOf(slotPath, name);
  for (const wrong of [
    { generation: 2n },
    { rank: 1 },
    { jobId: "other" },
    { layout: { dpReplicate: 1, dpShard: 1, sp: 2 } },
  ]) {
    const refused = kept.receive({ ...offer, ...wrong }, sent(slotPath, 0), () => {});
    await assert.rejects(refused, refuses("STATE_INVALID", /this node keeps ranks 0 of generation 1 of job/));
  }
  const late = kept.receive(
    offer,
    sent(slotPath, 0, ({ index }) => index === 2 && begin(2n)),
    () => {},
  );
  await assert.rejects(late, refuses("STATE_INVALID", /a newer one has begun/));
  assert.deepEqual(held(), []);
});

test("a rank reads from another node's copy, past the chunk that is damaged there", async (t) => {
  const [one, two] = [await keeper(t), await keeper(t)];
  for (const { kept } of [one, two]) {
    const { state: name, slotPath } = slotOf(5);
    await kept.receive(offerOf(slotPath, name), sent(slotPath, 0), () => {});
  }
  const damaged = one.store.sets("job")[0]!.held[0]!.path;
  const bytes = readFileSync(damaged);
  bytes[(1 << 20) + 9]! ^= 1;
  writeFileSync(damaged, bytes);
  assert.notEqual(await verifySnapshot(damaged), null);
  const whole = two.store.sets("job")[0]!.held[0]!.path;
  const wanted = {
    jobId: "job",
    state: state(1, 5),
    layout,
    peer: null,
    access: PEER_ACCESS,
    signal: new AbortController().signal,
  };
  const place = (nodeId: string, port: number) =>
    remoteSnapshot(wanted, { rank: 0, nodeId, host: "127.0.0.1", port });
  const page = readFileSync(whole);
  const { entries } = snapshotLayout(MODEL.units, layout, 0);
  const placeOf = (kind: string, unit: string, offset: number) =>
    entries.find((entry) => entry.kind === kind && entry.unit === unit)!.byteOffset + 4 * offset;
  let taken = 0;
  const read = await readMemory({
    units: MODEL.units,
    state: wanted.state,
    from: layout,
    to: layout,
    rank: 0,
    kinds: STATE_KINDS,
    sources: () => [place("nobody", 1), place("one", one.port), place("two", two.port)],
    write: ({ kind, unit, offset, bytes: part }) => {
      // One rank of the same layout: pieces come in the order of the file.
      assert.ok(
        Buffer.from(part).equals(page.subarray(placeOf(kind, unit, offset)).subarray(0, part.byteLength)),
      );
      taken += part.byteLength;
    },
  });
  assert.deepEqual(read.missing, []);
  assert.equal(
    taken,
    read.parts.reduce((sum, part) => sum + part.bytes, 0),
  );
  assert.deepEqual(
    read.parts.map(({ source }) => source),
    ["rank 0 on one", "rank 0 on two"],
  );
  assert.match(read.parts[1]!.insteadOf, /rank 0 on nobody: .*; rank 0 on one: .*differ from their checksum/);
  assert.equal(read.failures.length, 2);
});

test("RateLimiter lets bytes through at the rate, at once after a pause, with no burst to catch up", () => {
  const limiter = new RateLimiter();
  const delay = (nowMs: number) => limiter.delayMs(1000, 10_000, nowMs);
  assert.deepEqual([delay(0), delay(0), delay(0)], [0, 100, 200]);
  assert.equal(delay(300), 0);
  assert.deepEqual([delay(5000), delay(5000)], [0, 100]);
});
