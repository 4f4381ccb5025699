import { GokuError } from "../../job/errors.js";
import type { DTypeName, Native } from "./native.js";
import type { Arena, Tensor } from "./tensor.js";

/** Something a backward pass will need: a tensor that was kept, or one that is cheap to make again. */
export interface Saved {
  /** The tensor; valid until `free`. */
  use(): Tensor;
  retain(): this;
  free(): void;
}

/**
 * A tensor that is made again from others that are kept anyway (a norm's output, an activation), so that it need not
 * live from forward to backward. Made at the first use, freed with the last user.
 */
export class Remake implements Saved {
  private readonly make: () => Tensor;
  private tensor: Tensor | null = null;
  private users = 0;

  constructor(make: () => Tensor) {
    this.make = make;
  }

  use(): Tensor {
    this.tensor ??= this.make();
    return this.tensor;
  }

  retain(): this {
    this.users++;
    return this;
  }

  free(): void {
    if (--this.users > 0) return;
    this.tensor?.free();
    this.tensor = null;
  }
}

/** A tensor in the computation and, during backward, the gradient of the loss by it. */
export class Value {
  readonly tensor: Tensor;
  /** false: nobody asks for its gradient (inputs). */
  readonly needsGrad: boolean;
  /** How to make the tensor again, when that is cheap; null: keep it. */
  readonly remake: Remake | null;
  private gradient: Tensor | null = null;

  constructor(tensor: Tensor, needsGrad: boolean, remake: Remake | null = null) {
    this.tensor = tensor;
    this.needsGrad = needsGrad;
    this.remake = remake;
  }

  /** The finished gradient; the caller frees it. */
  takeGrad(): Tensor {
    const { gradient } = this;
    if (gradient === null)
      throw new GokuError("INTERNAL", "Cannot go backward: the loss does not depend on a recorded value");
    this.gradient = null;
    return gradient;
  }

  /** Adds a whole gradient; takes over the caller's reference. */
  giveGrad(arena: Arena, tensor: Tensor): void {
    if (this.gradient === null) {
      this.gradient = tensor;
      return;
    }
    const { tensor: into } = this.gradToAccumulate(arena);
    arena.native.tensorAdd(into.id, tensor.id);
    tensor.free();
  }

  /** Where a kernel writes its part: "+=" when accumulate is true, "=" when false. Stays owned by this value. */
  gradToAccumulate(arena: Arena): { tensor: Tensor; accumulate: boolean } {
    if (this.gradient === null) {
      this.gradient = arena.alloc(this.tensor.dtype, ...this.tensor.shape);
      return { tensor: this.gradient, accumulate: false };
    }
    if (this.gradient.shared) this.gradient = copyOf(arena, this.gradient);
    return { tensor: this.gradient, accumulate: true };
  }

  /** Where a kernel that only adds writes its part. */
  gradToAdd(arena: Arena): Tensor {
    const { tensor, accumulate } = this.gradToAccumulate(arena);
    if (!accumulate && tensor.count > 0) arena.native.tensorFill(tensor.id, 0);
    return tensor;
  }

  /** Where kernels write columns of their own, each column once. */
  gradColumns(arena: Arena): Tensor {
    return this.gradToAccumulate(arena).tensor;
  }
}

/** Replaces a shared tensor by a copy of one's own. */
function copyOf(arena: Arena, tensor: Tensor): Tensor {
  const copy = arena.alloc(tensor.dtype, ...tensor.shape);
  if (copy.count > 0) arena.native.tensorCast(copy.id, tensor.id);
  tensor.free();
  return copy;
}

interface Entry {
  saved: readonly Saved[];
  backward: () => void;
}

/**
 * Records operations as they run forward and replays their backwards in reverse. One tape covers one segment (a block,
 * the embedding, the head); segments meet at Values.
 */
export class Tape {
  readonly arena: Arena;
  readonly native: Native;
  /** false: forward only; nothing is saved. */
  readonly recording: boolean;
  /** true: what is cheap to make again is not kept. */
  private readonly frugal: boolean;
  private readonly entries: Entry[] = [];
  private readonly made: Value[] = [];
  private depth = 0;

  constructor(arena: Arena, options: { recording: boolean; frugal: boolean }) {
    this.arena = arena;
    this.native = arena.native;
    this.recording = options.recording;
    this.frugal = options.frugal;
  }

  /**
   * New result of an operation; its tensor lives until the enclosing scope ends (longer where saved).
   * @param make how to make it again from what the operation saves, when that is cheap.
   */
  output(tensor: Tensor, make: (() => Tensor) | null = null): Value {
    const remake = make !== null && this.recording && this.frugal ? new Remake(make) : null;
    const value = new Value(tensor, this.recording, remake);
    this.made.push(value);
    return value;
  }

  /** A number that nobody differentiates by; takes over the tensor like `output`. */
  input(tensor: Tensor): Value {
    const value = new Value(tensor, false);
    this.made.push(value);
    return value;
  }

  /** Room for a result. */
  alloc(dtype: DTypeName, ...shape: number[]): Tensor {
    return this.arena.alloc(dtype, ...shape);
  }

  /** Keeps what `backward` will use of a value: its recipe where there is one, else the tensor itself. */
  save(value: Value): Saved {
    return (value.remake ?? value.tensor).retain();
  }

  /** `saved` are freed when `backward` has run. */
  record(saved: readonly Saved[], backward: () => void): void {
    this.entries.push({ saved, backward });
  }

  /**
   * Runs `body`, then lets go of all it made but its result, which belongs to the enclosing scope or, from the
   * outermost, to the caller.
   */
  scope<R extends Value | readonly Value[]>(body: () => R): R {
    const mark = this.made.length;
    this.depth++;
    const result = body();
    this.depth--;
    const kept: readonly Value[] = result instanceof Value ? [result] : result;
    for (let i = mark; i < this.made.length; i++) {
      if (!kept.includes(this.made[i]!)) this.made[i]!.tensor.free();
    }
    this.made.length = mark;
    if (this.depth > 0) this.made.push(...kept);
    return result;
  }

  /** Lets go of a value before its scope ends. */
  drop(value: Value): void {
    this.made.splice(this.made.lastIndexOf(value), 1);
    value.tensor.free();
  }

  /** Replays everything recorded, last first, freeing what was saved. */
  backward(): void {
    for (let entry = this.entries.pop(); entry; entry = this.entries.pop()) {
      entry.backward();
      for (const saved of entry.saved) saved.free();
    }
  }
}
