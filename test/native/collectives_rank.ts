/**
 * One rank of the collectives' tests: a process that does what its parent says over IPC, one command at a time.
 * Inputs come from a counter hash of (seed, member, index), so each rank knows what all others hold and checks every
 * output against the slow twin below, bit for bit. Values are not round: a sum in another order would differ.
 */
import { createHash } from "node:crypto";
import { loadNative } from "../../worker/engine/load_native.js";
import {
  type CommId,
  type CommListenStats,
  DTYPE,
  type DTypeName,
  type TensorId,
  type Ticket,
} from "../../worker/engine/native.js";
import { PAGE_BYTES } from "../../worker/pages.js";

export interface MemberSpec {
  rank: number;
  nodeId: string;
  host: string;
  port: number;
  pid: number;
}
export type OperationSpec =
  | { op: "allGather"; dtype: DTypeName; counts: number[]; seed: number; inPlace: boolean }
  | { op: "reduceScatter"; counts: number[]; contributes: number[]; seed: number }
  | {
      op: "allReduce";
      dtype: "f32" | "f64";
      count: number;
      reduction: number;
      seed: number;
      nanFrom: number | null;
    }
  | { op: "allToAll"; dtype: DTypeName; counts: number[][]; seed: number } // counts[from][to]
  | { op: "broadcast"; dtype: DTypeName; count: number; root: number; seed: number }
  | { op: "barrier" };
export interface CreateSpec {
  name: string;
  job: string;
  generation: string;
  rank: number;
  members: MemberSpec[];
  timeoutMs: number;
  reachMs: number;
  transport: "auto" | "tcp";
}
export type Command =
  | { kind: "listen" }
  | { kind: "stats" }
  | { kind: "create"; group: string; options: CreateSpec }
  | { kind: "run"; group: string; operations: OperationSpec[] }
  | { kind: "runAndClose"; group: string; operations: OperationSpec[] } // commClose right after the last wait
  | { kind: "abortThenRun"; group: string; operation: OperationSpec } // commAbort while the operation runs
  | { kind: "closeWhileRunning"; group: string; operation: OperationSpec }
  | { kind: "waitTwice"; group: string }
  | { kind: "carrier"; group: string }
  | { kind: "abort"; group: string }
  | { kind: "close"; group: string }
  | { kind: "exitWhileBusy"; group: string; operation: OperationSpec } // process.exit with an operation running
  | { kind: "leave" }; // lets the process end with its groups open
export interface RankError {
  code: string;
  peer: number | null;
  operation: string | null;
  message: string;
}
export type Reply = { id: number; value: unknown } | { id: number; error: RankError };

// All on one device, where there is one: docs/cuda.md.
process.env.NCCL_HOSTID ??= `test.${process.pid}`;
const native = loadNative();
const [controlPath, progressPath] = process.argv.slice(2) as [string, string];
const control = native.pageMap(controlPath, PAGE_BYTES);
const progress = native.pageMap(progressPath, PAGE_BYTES);
const groups = new Map<string, { comm: CommId; rank: number; size: number }>();

type Values = Float32Array | Float64Array | Uint16Array | Uint8Array;
const ARRAYS = { f32: Float32Array, f64: Float64Array, bf16: Uint16Array, u8: Uint8Array } as const;

/** A word that depends on all three numbers. */
function mix(seed: number, member: number, index: number): number {
  let x =
    Math.imul(index + 1, 0x9e3779b1) ^ Math.imul(member + 1, 0x85ebca6b) ^ Math.imul(seed + 1, 0xc2b2ae35);
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
  return (x ^ (x >>> 15)) >>> 0;
}

/** What member `member` puts in: floats of several magnitudes and both signs, raw bits for the other types. */
function valuesOf(dtype: DTypeName, count: number, seed: number, member: number): Values {
  const values = new ARRAYS[dtype](count);
  const real = dtype === "f32" || dtype === "f64";
  for (let i = 0; i < count; i++) {
    const word = mix(seed, member, i);
    values[i] = real ? (word * 2 ** -31 - 1) * (1 << (word & 7)) : word;
  }
  return values;
}

function bytesOf(values: Values): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function tensorOf(values: Values, dtype: DTypeName): TensorId {
  const id = native.tensorAlloc(DTYPE[dtype], values.length);
  native.tensorWrite(id, 0, bytesOf(values));
  return id;
}

const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);
const offsetOf = (counts: readonly number[], index: number): number => sum(counts.slice(0, index));

/** An operation under way: what to wait for, where its result is and what it must be. */
interface Started {
  ticket: Ticket;
  out: TensorId;
  expected: Values;
  tensors: TensorId[];
}

function startAllGather(
  comm: CommId,
  rank: number,
  size: number,
  spec: OperationSpec & { op: "allGather" },
): Started {
  const { dtype, counts, seed } = spec;
  const expected = new ARRAYS[dtype](sum(counts));
  for (let m = 0; m < size; m++) expected.set(valuesOf(dtype, counts[m]!, seed, m), offsetOf(counts, m));
  const out = tensorOf(new ARRAYS[dtype](expected.length), dtype);
  const mine = valuesOf(dtype, counts[rank]!, seed, rank);
  let input: TensorId;
  if (spec.inPlace) {
    input = native.tensorView(out, offsetOf(counts, rank), counts[rank]!);
    native.tensorWrite(input, 0, bytesOf(mine));
  } else {
    input = tensorOf(mine, dtype);
  }
  return {
    ticket: native.allGatherStart(comm, out, input, Float64Array.from(counts)),
    out,
    expected,
    tensors: [out, input],
  };
}

function startReduceScatter(
  comm: CommId,
  rank: number,
  size: number,
  spec: OperationSpec & { op: "reduceScatter" },
): Started {
  const { counts, contributes, seed } = spec;
  const expected = valuesOf("f32", counts[rank]!, seed + 1000, rank) as Float32Array;
  const acc = tensorOf(expected.slice(), "f32");
  const begin = offsetOf(counts, rank);
  for (let m = 0; m < size; m++) {
    if (contributes[m] === 0) continue;
    const theirs = valuesOf("f32", sum(counts), seed, m);
    for (let i = 0; i < expected.length; i++) expected[i] = Math.fround(expected[i]! + theirs[begin + i]!);
  }
  const input = contributes[rank] === 0 ? 0 : tensorOf(valuesOf("f32", sum(counts), seed, rank), "f32");
  const ticket = native.reduceScatterStart(
    comm,
    acc,
    input,
    Float64Array.from(counts),
    Uint8Array.from(contributes),
  );
  return { ticket, out: acc, expected, tensors: input === 0 ? [acc] : [acc, input] };
}

function startAllReduce(
  comm: CommId,
  rank: number,
  size: number,
  spec: OperationSpec & { op: "allReduce" },
): Started {
  const { dtype, count, reduction, seed, nanFrom } = spec;
  const input = (member: number): Values => {
    const values = valuesOf(dtype, count, seed, member);
    if (nanFrom === member) for (let i = 0; i < count; i += 3) values[i] = Number.NaN;
    return values;
  };
  const expected = input(0);
  for (let m = 1; m < size; m++) {
    const theirs = input(m);
    for (let i = 0; i < count; i++) {
      const [a, b] = [expected[i]!, theirs[i]!];
      // Storing into a Float32Array rounds each sum to f32; Math.max and Math.min let NaN through.
      expected[i] = reduction === 0 ? a + b : reduction === 1 ? Math.max(a, b) : Math.min(a, b);
    }
  }
  const buffer = tensorOf(input(rank), dtype);
  return { ticket: native.allReduceStart(comm, buffer, reduction), out: buffer, expected, tensors: [buffer] };
}

function startAllToAll(
  comm: CommId,
  rank: number,
  size: number,
  spec: OperationSpec & { op: "allToAll" },
): Started {
  const { dtype, counts, seed } = spec;
  const outCounts = counts.map((row) => row[rank]!);
  const inCounts = counts[rank]!;
  const expected = new ARRAYS[dtype](sum(outCounts));
  for (let m = 0; m < size; m++) {
    const begin = offsetOf(counts[m]!, rank);
    const theirs = valuesOf(dtype, sum(counts[m]!), seed, m);
    expected.set(theirs.subarray(begin, begin + outCounts[m]!), offsetOf(outCounts, m));
  }
  const out = tensorOf(new ARRAYS[dtype](expected.length), dtype);
  const input = tensorOf(valuesOf(dtype, sum(inCounts), seed, rank), dtype);
  const ticket = native.allToAllStart(
    comm,
    out,
    Float64Array.from(outCounts),
    input,
    Float64Array.from(inCounts),
  );
  return { ticket, out, expected, tensors: [out, input] };
}

function startOperation(group: { comm: CommId; rank: number; size: number }, spec: OperationSpec): Started {
  const { comm, rank, size } = group;
  switch (spec.op) {
    case "allGather":
      return startAllGather(comm, rank, size, spec);
    case "reduceScatter":
      return startReduceScatter(comm, rank, size, spec);
    case "allReduce":
      return startAllReduce(comm, rank, size, spec);
    case "allToAll":
      return startAllToAll(comm, rank, size, spec);
    case "broadcast": {
      const expected = valuesOf(spec.dtype, spec.count, spec.seed, spec.root);
      const buffer = tensorOf(rank === spec.root ? expected : new ARRAYS[spec.dtype](spec.count), spec.dtype);
      return {
        ticket: native.broadcastStart(comm, buffer, spec.root),
        out: buffer,
        expected,
        tensors: [buffer],
      };
    }
    case "barrier":
      return { ticket: native.barrierStart(comm), out: 0, expected: new Uint8Array(0), tensors: [] };
  }
}

/** The bytes of the result, compared with the twin's. */
function readResult(started: Started, spec: OperationSpec): Uint8Array {
  const found = new Uint8Array(started.expected.byteLength);
  if (started.out !== 0) native.tensorRead(started.out, 0, found);
  const wanted = bytesOf(started.expected);
  for (const tensor of started.tensors) native.tensorFree(tensor);
  const floats = spec.op === "allReduce" && spec.nanFrom !== null;
  if (!floats && Buffer.compare(found, wanted) === 0) return found;
  const typed = new (started.expected.constructor as typeof Float32Array)(found.buffer as ArrayBuffer);
  for (let i = 0; i < typed.length; i++) {
    // A NaN has many bit patterns, all of them right.
    if (!Object.is(typed[i], started.expected[i])) {
      throw new Error(
        `${JSON.stringify(spec).slice(0, 200)}: element ${i} is ${typed[i]}, want ${started.expected[i]}`,
      );
    }
  }
  return found;
}

/** Starts all operations before it waits for the first, checks every result, returns one digest of all of them. */
function run(group: { comm: CommId; rank: number; size: number }, specs: OperationSpec[]): string {
  const started = specs.map((spec) => startOperation(group, spec));
  const digest = createHash("sha256");
  for (const [index, one] of started.entries()) {
    native.commWait(one.ticket);
    digest.update(readResult(one, specs[index]!));
  }
  return digest.digest("hex");
}

function groupOf(name: string): { comm: CommId; rank: number; size: number } {
  const found = groups.get(name);
  if (found === undefined) throw new Error(`no group ${name} in this rank`);
  return found;
}

async function execute(command: Command): Promise<unknown> {
  switch (command.kind) {
    case "listen":
      return { port: native.commListen("127.0.0.1"), pid: process.pid };
    case "stats":
      return native.commListenStats() satisfies CommListenStats;
    case "create": {
      const { generation, ...rest } = command.options;
      const comm = await native.commCreate({
        ...rest,
        generation: BigInt(generation),
        abortPage: control,
        progressPage: progress,
      });
      groups.set(command.group, { comm, rank: rest.rank, size: rest.members.length });
      return null;
    }
    case "run":
      return run(groupOf(command.group), command.operations);
    case "runAndClose": {
      const group = groupOf(command.group);
      const digest = run(group, command.operations);
      native.commClose(group.comm);
      return digest;
    }
    case "abortThenRun": {
      const group = groupOf(command.group);
      const started = startOperation(group, command.operation);
      native.commAbort(group.comm);
      native.commAbort(group.comm);
      native.commWait(started.ticket);
      return null;
    }
    case "closeWhileRunning": {
      const group = groupOf(command.group);
      const started = startOperation(group, command.operation);
      native.commClose(group.comm);
      native.commWait(started.ticket);
      return null;
    }
    case "waitTwice": {
      const { comm } = groupOf(command.group);
      const ticket = native.barrierStart(comm);
      native.commWait(ticket);
      native.commWait(ticket);
      return null;
    }
    case "carrier":
      return native.commCarrier(groupOf(command.group).comm);
    case "abort":
      native.commAbort(groupOf(command.group).comm);
      return null;
    case "close":
      native.commClose(groupOf(command.group).comm);
      return null;
    case "exitWhileBusy":
      startOperation(groupOf(command.group), command.operation);
      return process.exit(7);
    case "leave":
      process.disconnect();
      return null;
  }
}

process.on("message", (message: { id: number; command: Command }) => {
  const { id, command } = message;
  execute(command).then(
    (value) => process.connected && process.send!({ id, value } satisfies Reply),
    (error: Error & { code?: string; peer?: number; operation?: string }) => {
      const { code = "INTERNAL", peer = null, operation = null } = error;
      const told: RankError = { code, peer, operation, message: error.message };
      if (process.connected) process.send!({ id, error: told } satisfies Reply);
    },
  );
});
process.send!({ id: 0, value: "up" } satisfies Reply);
