import type { DTypeCode, Native, TensorId } from "../../worker/engine/native.js";

const BYTES = [4, 2, 8, 1] as const;

/**
 * The native contract without arithmetic: memory is counted as native/allocator.cc counts it, operations do nothing and collectives are
 * done at once. So the schedule of a model of any size runs in milliseconds, on a machine of any size.
 */
export class CountingNative {
  live = 0;
  peak = 0;
  readonly native: Native;
  private readonly tensors = new Map<TensorId, number>();
  private idLast = 0;

  constructor() {
    const known: Record<string, unknown> = {
      tensorAlloc: (dtype: DTypeCode, count: number) =>
        this.take(Math.max(64, Math.ceil((BYTES[dtype] * count) / 64) * 64)),
      tensorView: () => this.take(0),
      pageTensor: () => this.take(0),
      tensorFree: (id: TensorId) => this.free(id),
      memoryPeakReset: () => {
        this.peak = this.live;
      },
      memoryStats: () => ({
        liveBytes: this.live,
        liveTensors: this.tensors.size,
        peakBytes: this.peak,
        cachedBytes: 0,
      }),
      philoxWords: () => new Uint32Array(4),
    };
    // Everything else is an operation, a collective (ticket 0) or a sum (0).
    this.native = new Proxy(known, {
      get: (all, name: string) => all[name] ?? (() => 0),
    }) as unknown as Native;
  }

  private take(bytes: number): TensorId {
    this.live += bytes;
    this.peak = Math.max(this.peak, this.live);
    this.tensors.set(++this.idLast, bytes);
    return this.idLast;
  }

  private free(id: TensorId): void {
    const bytes = this.tensors.get(id);
    if (bytes === undefined) throw new Error(`tensor ${id} is freed already or unknown`);
    this.tensors.delete(id);
    this.live -= bytes;
  }
}
