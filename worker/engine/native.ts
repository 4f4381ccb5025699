/**
 * The whole contract between TypeScript and the native addons (`goku_cpu.node`, `goku_cuda.node`).
 *
 * Plain data and opaque handles cross here. Names and field order are the same in `native/binding/`.
 * No optional field: `null` means left out on purpose. Every call checks handles, dtypes and element counts
 * and throws an Error whose `code` is one of `NativeErrorCode`. All operations below run on the calling
 * thread (OpenMP inside) and return when done; only collectives have a thread of their own.
 *
 * Shape letters: N tokens here, D width, H heads, d = D/H, S samples, M text tokens, K in-width, F out-width.
 * "=" the output is written, "+=" it is added to. Matrices are row-major and dense. Where a kernel says
 * `any`, tensors may be f32 or bf16 each (widened to f32 for arithmetic).
 * `offsets` is Int32Array[S+1]: rows offsets[i] .. offsets[i+1]-1 belong to sample i (a sample may own no row).
 */

/** Index into the native table with a generation count inside; never 0. Freed ids are rejected, not reused at once. */
export type TensorId = number;
export const DTYPE = { f32: 0, bf16: 1, f64: 2, u8: 3 } as const;
export type DTypeName = keyof typeof DTYPE;
export type DTypeCode = (typeof DTYPE)[DTypeName];

export type NativeErrorCode =
  | "NATIVE_ARGUMENT" // caller mistake: bad handle, dtype, count
  | "NATIVE_OUT_OF_MEMORY"
  | "NATIVE_IO"
  | "NATIVE_DEVICE" // CUDA: the device, its driver or a library failed or is missing
  | "COMM_PEER_DIED" // error.peer: rank in the world, error.operation
  | "COMM_ABORTED" // abort word was set; error.peer: culprit named by the word, or -1
  | "COMM_TIMEOUT"; // error.peer: first rank waited for

export interface MemoryStats {
  liveBytes: number;
  liveTensors: number;
  peakBytes: number; // high-water mark since memoryPeakReset
  cachedBytes: number; // kept by the allocator for reuse
}

export interface CpuInfo {
  isa: string; // e.g. "avx2", "avx512", "avx512_bf16"
  bf16Native: boolean; // false: bf16 products are computed in fp32
  threads: number;
}

/** A device that the addon computes on. */
export interface DeviceInfo {
  name: string; // e.g. "NVIDIA H200"
  memoryBytes: number;
}

export interface NativeTensors {
  cpuInfo(): CpuInfo;
  devices(): DeviceInfo[]; // those that CUDA_VISIBLE_DEVICES shows this process; none: the CPU's addon
  threadsSet(count: number): void;
  tensorAlloc(dtype: DTypeCode, count: number): TensorId; // contents undefined, 64-byte aligned
  tensorView(base: TensorId, offset: number, count: number): TensorId; // shares memory, keeps base alive
  tensorFree(id: TensorId): void;
  tensorRead(id: TensorId, offset: number, into: Uint8Array): void; // offset in elements; raw bytes
  tensorWrite(id: TensorId, offset: number, from: Uint8Array): void;
  tensorFill(id: TensorId, value: number): void;
  tensorCast(dst: TensorId, src: TensorId): void; // any -> any, same count, round to nearest even
  tensorAdd(dst: TensorId, src: TensorId): void; // dst += src, any
  /** dst[r*dstStride + dstOffset + c] = src[r*srcStride + srcOffset + c] for r < rows, c < cols; same dtype. */
  copy2d(
    dst: TensorId,
    dstOffset: number,
    dstStride: number,
    src: TensorId,
    srcOffset: number,
    srcStride: number,
    rows: number,
    cols: number,
  ): void;
  memoryStats(): MemoryStats;
  memoryPeakReset(): void;

  /** Maps `path` (created with `bytes` zero bytes if absent) shared and writable; the view stays until pageUnmap. */
  pageMap(path: string, bytes: number): Uint8Array;
  pageUnmap(page: Uint8Array): void;
  /** A tensor whose memory is that of the page from byteOffset on, a multiple of the dtype's size; keeps it mapped. */
  pageTensor(page: Uint8Array, byteOffset: number, dtype: DTypeCode, count: number): TensorId;
}

export interface NativeOperations {
  /** y[N,F] = x[N,K] w[F,K]^T + bias[F]; bias 0: none; any dtypes. gelu: y = gelu_tanh(of that), preActivation[N,F] = before it. */
  linearForward(
    y: TensorId,
    x: TensorId,
    w: TensorId,
    bias: TensorId | 0,
    N: number,
    K: number,
    F: number,
    preActivation: TensorId | 0,
  ): void;
  /** dx[N,K] = dy[N,F] w[F,K]  (+= when accumulate). */
  linearBackwardInput(
    dx: TensorId,
    dy: TensorId,
    w: TensorId,
    N: number,
    K: number,
    F: number,
    accumulate: boolean,
  ): void;
  /** dw[F,K] = dy^T x, dbias[F] = column sums of dy; f32 (+= when accumulate); dbias 0: none. */
  linearBackwardWeight(
    dw: TensorId,
    dbias: TensorId | 0,
    dy: TensorId,
    x: TensorId,
    N: number,
    K: number,
    F: number,
    accumulate: boolean,
  ): void;
  /** dx = dy * gelu_tanh'(x); dx may be dy. */
  geluBackward(dx: TensorId, dy: TensorId, x: TensorId): void;
  /** y = gelu_tanh(x), for recomputation from the pre-activation. */
  geluForward(y: TensorId, x: TensorId): void;
  siluForward(y: TensorId, x: TensorId): void;
  siluBackward(dx: TensorId, dy: TensorId, x: TensorId): void;

  /** y = layerNorm(x) * (1 + mod[s, scaleColumn + c]) + mod[s, shiftColumn + c]; no affine. mod: f32 [S, modWidth]; stats: f32 [N,2] = (mean, 1/sd). */
  layerNormModulateForward(
    y: TensorId,
    stats: TensorId,
    x: TensorId,
    mod: TensorId,
    modWidth: number,
    shiftColumn: number,
    scaleColumn: number,
    offsets: Int32Array,
    D: number,
    eps: number,
  ): void;
  /** dx += ...; dmod columns of shift and scale = sums over the rows of each sample (0 for a sample without rows). */
  layerNormModulateBackward(
    dx: TensorId,
    dmod: TensorId,
    dy: TensorId,
    x: TensorId,
    stats: TensorId,
    mod: TensorId,
    modWidth: number,
    shiftColumn: number,
    scaleColumn: number,
    offsets: Int32Array,
    D: number,
  ): void;
  /** y = rmsNorm(x) * w, then modulated as above when mod is not 0. rstd: f32 [N]. */
  rmsNormForward(
    y: TensorId,
    rstd: TensorId,
    x: TensorId,
    w: TensorId,
    mod: TensorId | 0,
    modWidth: number,
    shiftColumn: number,
    scaleColumn: number,
    offsets: Int32Array,
    D: number,
    eps: number,
  ): void;
  /** dx += ...; dw f32 += ...; dmod columns = ... when mod is not 0. */
  rmsNormBackward(
    dx: TensorId,
    dw: TensorId,
    dmod: TensorId | 0,
    dy: TensorId,
    x: TensorId,
    rstd: TensorId,
    w: TensorId,
    mod: TensorId | 0,
    modWidth: number,
    shiftColumn: number,
    scaleColumn: number,
    offsets: Int32Array,
    D: number,
  ): void;

  /** y[N,H,d] = rotate(rmsNorm over H*d (x) * w); cos, sin: f32 [N, d/2]; cos 0: no rotation. rstd: f32 [N]. */
  qkNormRopeForward(
    y: TensorId,
    rstd: TensorId,
    x: TensorId,
    w: TensorId,
    cos: TensorId | 0,
    sin: TensorId | 0,
    N: number,
    H: number,
    d: number,
    eps: number,
  ): void;
  /** dx = ..., dw f32 += ...; dx may be dy. */
  qkNormRopeBackward(
    dx: TensorId,
    dw: TensorId,
    dy: TensorId,
    x: TensorId,
    rstd: TensorId,
    w: TensorId,
    cos: TensorId | 0,
    sin: TensorId | 0,
    N: number,
    H: number,
    d: number,
  ): void;
  /** Rope tables of tokens tokenStart .. tokenStart+count-1 of a pack; grids: Int32Array[3*S] of (t, y, x). Angles in f64, rounded once. */
  ropeTable(
    cos: TensorId,
    sin: TensorId,
    grids: Int32Array,
    tokenStart: number,
    count: number,
    d: number,
    theta: number,
  ): void;

  /** Packed attention, scale 1/sqrt(d): sample i's queries see its own keys only. out, q: [N,H,d]; k, v: [M,H,d]; lse: f32 [N,H]. No keys: out 0, lse -inf. */
  attentionForward(
    out: TensorId,
    lse: TensorId,
    q: TensorId,
    k: TensorId,
    v: TensorId,
    qOffsets: Int32Array,
    kOffsets: Int32Array,
    H: number,
    d: number,
  ): void;
  /** dq, dk, dv = ...; deterministic for any thread count. */
  attentionBackward(
    dq: TensorId,
    dk: TensorId,
    dv: TensorId,
    dout: TensorId,
    out: TensorId,
    lse: TensorId,
    q: TensorId,
    k: TensorId,
    v: TensorId,
    qOffsets: Int32Array,
    kOffsets: Int32Array,
    H: number,
    d: number,
  ): void;

  /** y = x + mod[s, gateColumn + c] * branch; y may be x. */
  gateResidualForward(
    y: TensorId,
    x: TensorId,
    branch: TensorId,
    mod: TensorId,
    modWidth: number,
    gateColumn: number,
    offsets: Int32Array,
    D: number,
  ): void;
  /** dbranch = gate * dy; dmod gate column = sum over rows of dy * branch. */
  gateResidualBackward(
    dbranch: TensorId,
    dmod: TensorId,
    dy: TensorId,
    branch: TensorId,
    mod: TensorId,
    modWidth: number,
    gateColumn: number,
    offsets: Int32Array,
    D: number,
  ): void;

  /** out f32 [S, width]: cos half, then sin half of 1000 t * 10000^(-2j/width); t f32 [S]. */
  timestepSinusoid(out: TensorId, t: TensorId, width: number): void;
  /** xt (any) = t data + (1-t) noise; target f32 = data - noise; f32 inputs [N,P]; t f32 [S] per sample. */
  flowPath(
    xt: TensorId,
    target: TensorId,
    data: TensorId,
    noise: TensorId,
    t: TensorId,
    offsets: Int32Array,
    P: number,
  ): void;
  /** Returns sum over samples of weights[i] * sum((v-u)^2) over its rows, in f64; dv (any) = 2 weights[i] (v-u). perSample[i] = weights[i] * its sum. */
  flowLoss(
    dv: TensorId | 0,
    v: TensorId,
    target: TensorId,
    weights: Float64Array,
    perSample: Float64Array,
    offsets: Int32Array,
    P: number,
  ): number;
  /** x f32 += dt * (v0 + guidance * (v1 - v0)); v0 0: x += dt * v1. */
  eulerUpdate(x: TensorId, v1: TensorId, v0: TensorId | 0, guidance: number, dt: number): void;

  /** out f32 [offset .. offset+count) = scale * normal(seed, stream, step, which, elementStart + i), each normal rounded to f32 before scaling (scale applied in f64, rounded once more). */
  philoxNormal(
    out: TensorId,
    offset: number,
    count: number,
    seed: bigint,
    stream: number,
    step: number,
    which: number,
    elementStart: number,
    scale: number,
  ): void;
  /** Words of Philox4x32-10 for tests and for uniform draws: returns 4 uint32. */
  philoxWords(counter: Uint32Array, key: Uint32Array): Uint32Array;
  /** Sum of squares of [start, start+count) in f64; NaN or Inf come through. */
  sumSquares(x: TensorId, start: number, count: number): number;
  /**
   * AdamW + EMA on flat f32 shards of one length: (master2, m2, v2, ema2) = the state after (master, m, v, ema); the same
   * tensors: in place, else none that overlap. weights (f32 or bf16) = new master, 0: none. segments: start, count, 1
   * (weightDecay) or 0 (none), one after another over all elements. `step` counts from 1. gradScale: clip factor.
   * checksums, empty: not wanted: CRC-32 of each MiB of master2, then of ema2, m2 and v2.
   */
  adamwStep(
    master: TensorId,
    m: TensorId,
    v: TensorId,
    ema: TensorId,
    master2: TensorId,
    m2: TensorId,
    v2: TensorId,
    ema2: TensorId,
    grad: TensorId,
    weights: TensorId | 0,
    segments: Float64Array,
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    gradScale: number,
    emaDecay: number,
    step: number,
    checksums: Uint32Array,
  ): void;
  /** checksums = CRC-32 of each MiB of the tensor's bytes. */
  tensorChecksums(x: TensorId, checksums: Uint32Array): void;
}

/** A snapshot under way. Wait exactly once. */
export type SnapshotTicket = number;

/** Copies of tensors that are about to change, made beside what is called later; the CPU's addon makes them at once. */
export interface NativeSnapshots {
  /**
   * to[i] = from[i], as all calls until now leave it; handles of tensors of one dtype and count each. Returns at once; both are kept
   * alive until the wait.
   */
  snapshotStart(from: Float64Array, to: Float64Array): SnapshotTicket;
  /** Operations called from here on may write `from`: a device runs them after the copies have read it. Does not wait. */
  snapshotFence(ticket: SnapshotTicket): void;
  /** Blocks until `to` is written. checksums = CRC-32 of each MiB of each tensor, one tensor after another; empty: not wanted. */
  snapshotWait(ticket: SnapshotTicket, checksums: Uint32Array): void;
}

/** Where a rank of a communicator lives. */
export interface CommEndpoint {
  rank: number; // in the world
  nodeId: string; // equal ids share memory
  host: string;
  port: number; // of commListen
  pid: number;
}
export interface CommOptions {
  name: string; // unique in a generation: "world", "shard.0", ...; also names the shared-memory segment
  job: string;
  generation: bigint; // handshakes of another generation are refused
  rank: number; // index of this process in `members`
  members: readonly CommEndpoint[]; // in reduction order
  abortPage: Uint8Array; // control page; see worker/pages.ts
  progressPage: Uint8Array; // the native thread writes collective numbers there
  timeoutMs: number; // a collective that takes longer fails with COMM_TIMEOUT
  reachMs: number; // so does forming when a member's host answers no connection for so long
  // auto: from device to device where the backend has devices and every member can; else, and for "host", shared memory within a
  // node and TCP between nodes; "tcp": TCP within a node, too
  transport: "auto" | "host" | "tcp";
}
export type CommId = number;
/** Connections at the listening socket since commListen. */
export interface CommListenStats {
  accepted: number;
  parked: number; // now: their group has not been created here yet
  refusedStale: number; // of an older generation than the newest created here
  refusedUnknown: number; // their group never came, or too many were parked
  refusedMismatch: number; // the group has other members here, or that member is connected
  refusedMalformed: number; // spoke another protocol, or nothing
}
/** One collective in flight. Wait exactly once; buffers must stay alive until then. */
export type Ticket = number;

export interface NativeCollectives {
  /** Opens the one listening socket of this process (port 0: any) and returns its port. Idempotent. */
  commListen(host: string): number;
  commUnlisten(): void;
  commListenStats(): CommListenStats;
  /** Connects the group; resolves when every member is there. Rejects with a Comm error. Runs on the comm's own thread. */
  commCreate(options: CommOptions): Promise<CommId>;
  /** What carries payload between devices, as all members have agreed, or why nothing does; "" on the CPU backend. */
  commCarrier(comm: CommId): string;
  /** Idempotent; may be called while a collective runs; waits of the group fail with COMM_ABORTED. */
  commAbort(comm: CommId): void;
  /** Says goodbye to peers and frees the group; after an abort just frees it. */
  commClose(comm: CommId): void;

  // Each starts on the group's own thread, in call order, and returns at once.
  // counts: elements per member; element offsets are their running sums.
  allGatherStart(comm: CommId, out: TensorId, input: TensorId, counts: Float64Array): Ticket;
  /** acc f32 [counts[rank]] = acc + in_0 + in_1 + ... in member order, skipping members whose contributes flag is 0 (they pass input 0). */
  reduceScatterStart(
    comm: CommId,
    acc: TensorId,
    input: TensorId | 0,
    counts: Float64Array,
    contributes: Uint8Array,
  ): Ticket;
  /** In place, f32 or f64; same bits on every member: sums in member order. op: 0 sum, 1 max, 2 min. */
  allReduceStart(comm: CommId, buffer: TensorId, op: number): Ticket;
  allToAllStart(
    comm: CommId,
    out: TensorId,
    outCounts: Float64Array,
    input: TensorId,
    inCounts: Float64Array,
  ): Ticket;
  broadcastStart(comm: CommId, buffer: TensorId, root: number): Ticket;
  barrierStart(comm: CommId): Ticket;
  /** Blocks the calling thread until done; throws the typed error. Aborts and dead peers wake it within 100 ms. */
  commWait(ticket: Ticket): void;
}

export interface NativeDiagnosis {
  /**
   * From now on SIGUSR2 appends the frames of every thread of this process to the file (native/stack_dump.h gives its form),
   * whatever the threads are doing; those that are stopped write when they go on.
   */
  stackDumpInstall(path: string): void;
}

/** One NVLink of a GPU, with its errors since the driver was loaded; null: not told. */
export interface NvLinkReading {
  link: number;
  up: boolean;
  replays: number | null;
  recoveries: number | null;
  crcErrors: number | null;
}

/** What NVML tells of one GPU; null: this GPU, driver or library does not tell it (native/nvml.h). */
export interface GpuReading {
  lost: boolean; // the driver does not reach it, or says that it must be reset; what follows may be missing
  uuid: string | null; // e.g. "GPU-3c1e..."
  name: string | null;
  busId: string | null; // e.g. "00000000:3B:00.0"
  temperatureCelsius: number | null;
  memoryTemperatureCelsius: number | null;
  smClockMhz: number | null;
  memoryClockMhz: number | null;
  clockReasons: number | null; // bits of nvmlClocksEventReasons
  powerMilliwatts: number | null;
  powerLimitMilliwatts: number | null;
  memoryUsedBytes: number | null;
  memoryTotalBytes: number | null;
  utilizationPercent: number | null;
  eccCorrected: number | null; // since the driver was loaded, as the next
  eccUncorrected: number | null;
  retiredPages: number | null; // in its life, as the next two
  remappedRowsCorrected: number | null;
  remappedRowsUncorrected: number | null;
  remapPending: boolean | null; // a page or row waits for a reset to be replaced
  remapFailed: boolean | null; // a row could not be replaced
  links: NvLinkReading[];
}

/** An error that the driver reported of a GPU. */
export interface GpuXid {
  busId: string; // empty: not known
  xid: number; // 999: the driver does not say
}

/** Every call may hang for minutes where a GPU has fallen off the bus: none is made in a process that must go on. */
export interface NativeNvml {
  nvmlOpen(): boolean; // false: this machine has no libnvidia-ml.so.1; to be called before the others
  nvmlCount(): number; // GPUs that the driver knew when it was opened
  nvmlRead(index: number): GpuReading | null; // in the order of their PCI addresses; null: this process may not look at it
  nvmlXids(): GpuXid[]; // since the last time, the oldest first
}

export interface Native
  extends NativeTensors,
    NativeOperations,
    NativeSnapshots,
    NativeCollectives,
    NativeDiagnosis,
    NativeNvml {
  /** Contract version; the loader refuses another. */
  readonly contract: number;
}
export const NATIVE_CONTRACT = 6;
