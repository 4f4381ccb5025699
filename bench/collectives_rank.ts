/** One rank of bench/collectives.ts: a process that runs one collective at a time, on the group that is named. */
import { loadNative } from "../worker/engine/load_native.js";
import { type CommEndpoint, type CommId, DTYPE, type Ticket } from "../worker/engine/native.js";
import { PAGE_BYTES } from "../worker/pages.js";

export const OPERATIONS = ["allGather", "reduceScatter", "allReduce", "allToAll", "broadcast"] as const;
export type OperationName = (typeof OPERATIONS)[number];
export const TRANSPORTS = ["tcp", "shm"] as const;
export type TransportName = (typeof TRANSPORTS)[number];

export type ToRank =
  | { kind: "form"; rank: number; members: CommEndpoint[]; bytes: number }
  | { kind: "measure"; transport: TransportName; operation: OperationName | "barrier" };
export type FromRank =
  | { kind: "listening"; port: number }
  | { kind: "formed" }
  | { kind: "measured"; seconds: number };

const native = loadNative();
const [controlPath, progressPath] = process.argv.slice(2) as [string, string];
const groups = new Map<TransportName, CommId>();
let start: (comm: CommId, operation: OperationName | "barrier") => Ticket;

async function form(rank: number, members: CommEndpoint[], bytes: number): Promise<void> {
  native.threadsSet(1);
  const common = {
    job: `bench-${members[0]?.pid}`,
    generation: 1n,
    rank,
    members,
    abortPage: native.pageMap(controlPath, PAGE_BYTES),
    progressPage: native.pageMap(progressPath, PAGE_BYTES),
    timeoutMs: 60_000,
    reachMs: 60_000,
  };
  groups.set("tcp", await native.commCreate({ ...common, name: "tcp", transport: "tcp" }));
  groups.set("shm", await native.commCreate({ ...common, name: "shm", transport: "auto" }));

  const share = Math.floor(bytes / 4 / members.length);
  const counts = new Float64Array(members.length).fill(share);
  const contributes = new Uint8Array(members.length).fill(1);
  // Zeros everywhere, as on the other side: sums repeated in place would run into infinity.
  const [whole, other, part] = [share * members.length, share * members.length, share].map((count) => {
    const tensor = native.tensorAlloc(DTYPE.f32, count);
    native.tensorFill(tensor, 0);
    return tensor;
  }) as [number, number, number];
  start = (comm, operation) => {
    switch (operation) {
      case "allGather":
        return native.allGatherStart(comm, other, part, counts);
      case "reduceScatter":
        return native.reduceScatterStart(comm, part, whole, counts, contributes);
      case "allReduce":
        return native.allReduceStart(comm, whole, 0);
      case "allToAll":
        return native.allToAllStart(comm, other, counts, whole, counts);
      case "broadcast":
        return native.broadcastStart(comm, whole, 0);
      case "barrier":
        return native.barrierStart(comm);
    }
  };
}

function measure(transport: TransportName, operation: OperationName | "barrier"): number {
  const comm = groups.get(transport) as CommId;
  native.commWait(native.barrierStart(comm));
  const begun = performance.now();
  native.commWait(start(comm, operation));
  return (performance.now() - begun) / 1000;
}

function answer(message: FromRank): void {
  process.send?.(message);
}

process.on("message", (message: ToRank) => {
  if (message.kind === "measure") {
    answer({ kind: "measured", seconds: measure(message.transport, message.operation) });
    return;
  }
  form(message.rank, message.members, message.bytes).then(
    () => answer({ kind: "formed" }),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
answer({ kind: "listening", port: native.commListen("127.0.0.1") });
