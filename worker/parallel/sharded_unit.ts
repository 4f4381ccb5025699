import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import { type FlatUnit, shardRange } from "../../job/sharding.js";
import type { Ticket } from "../engine/native.js";
import type { Parameter, ParameterSet } from "../engine/parameter.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import type { ComputeDType } from "../model/transformer.js";
import type { Collectives } from "./collectives.js";

/** The training state of one unit's shard, all f32. */
export interface StateTensors {
  readonly model: Tensor;
  readonly ema: Tensor;
  readonly adam_m: Tensor;
  readonly adam_v: Tensor;
}

/** What this rank holds of one FSDP unit: elements [range.start, range.start + range.length) of its flat run. */
export interface ShardUnit extends StateTensors {
  readonly unit: FlatUnit;
  readonly range: { start: number; length: number };
  /** Gradient of the step, between computeStep and apply; else null. */
  readonly gradient: Tensor | null;
}

/**
 * One FSDP unit on one rank: its shard of the training state, the whole weights while they are gathered, and the
 * gradient on its way from a whole f32 run to this rank's shard.
 *
 * A shard group of one gathers nothing: weights are the master itself (fp32) or a bf16 copy that the optimizer renews.
 */
export class ShardedUnit implements ShardUnit, ParameterSet {
  readonly unit: FlatUnit;
  readonly range: { start: number; length: number };
  /** This shard in the compute dtype, where that is not f32; the optimizer writes it beside the master. */
  readonly computeShard: Tensor | null;
  /** Elements of the shard whose parameters decay or not: start, count, 1 or 0, one after another. */
  readonly segments: Float64Array;
  /** Sum of the step's gradients over packs and ranks; exists from the first reduction to `dropGradient`. */
  gradient: Tensor | null = null;

  private state: StateTensors;
  private readonly arena: Arena;
  private readonly counts: Float64Array;
  private readonly parameters: ReadonlyMap<string, UnitParameter>;
  private whole: { tensor: Tensor; ticket: Ticket | null } | null = null;
  private open: Tensor | null = null;

  /**
   * @param arena where the lasting tensors come from.
   * @param options.state memory of the training state, which may be changed by `use`; null: the unit's own.
   */
  constructor(
    arena: Arena,
    unit: FlatUnit,
    options: { layout: Layout; rank: number; dtype: ComputeDType; state: StateTensors | null },
  ) {
    const parts = options.layout.shardGroupSize;
    this.arena = arena;
    this.unit = unit;
    const ranges = Array.from({ length: parts }, (_, index) =>
      shardRange({ count: unit.count, parts, index }),
    );
    this.range = ranges[options.rank % parts]!;
    this.counts = Float64Array.from(ranges, (range) => range.length);
    const { length } = this.range;
    const run = () => arena.alloc("f32", length);
    this.state = options.state ?? { model: run(), ema: run(), adam_m: run(), adam_v: run() };
    this.computeShard = options.dtype === "f32" ? null : arena.alloc(options.dtype, length);
    this.segments = optimizerSegments(unit, this.range);
    const prefix = unit.name === "root" ? 0 : unit.name.length + 1;
    this.parameters = new Map(
      unit.parameters.map(({ spec, offset }) => [
        spec.name.slice(prefix),
        new UnitParameter(spec.name, spec.shape, offset, spec.count),
      ]),
    );
    if (parts === 1) this.setWeights(arena, this.computeShard ?? this.model);
  }

  get model(): Tensor {
    return this.state.model;
  }
  get ema(): Tensor {
    return this.state.ema;
  }
  get adam_m(): Tensor {
    return this.state.adam_m;
  }
  get adam_v(): Tensor {
    return this.state.adam_v;
  }

  /** Goes on with the state in these tensors. */
  use(state: StateTensors): void {
    this.state = state;
    if (this.counts.length > 1 || this.computeShard !== null) return;
    for (const parameter of this.parameters.values()) parameter.clearWeight();
    this.setWeights(this.arena, state.model);
  }

  get(name: string): Parameter {
    const parameter = this.parameters.get(name);
    if (!parameter)
      throw new GokuError("INTERNAL", `Cannot find parameter ${name} in unit ${this.unit.name}`);
    return parameter;
  }

  /** Renews what is derived from the master after it was written from outside. */
  renewCompute(): void {
    if (this.computeShard && this.range.length > 0) {
      this.arena.native.tensorCast(this.computeShard.id, this.model.id);
    }
  }

  /** Starts to collect the whole weights, unless they are here or on their way. */
  gatherStart(step: Arena, collectives: Collectives): void {
    if (this.counts.length === 1 || this.whole) return;
    const shard = this.computeShard ?? this.model;
    const tensor = step.alloc(shard.dtype, this.unit.count);
    const comm = collectives.require("shard");
    const ticket = collectives.started(
      "allGather",
      collectives.native.allGatherStart(comm, tensor.id, shard.id, this.counts),
    );
    this.whole = { tensor, ticket };
  }

  /** Waits for the whole weights; from here to `release` the parameters can be used. */
  gatherWait(step: Arena, collectives: Collectives): void {
    if (this.counts.length === 1) return;
    this.gatherStart(step, collectives);
    const whole = this.whole!;
    if (whole.ticket === null) return;
    const { ticket } = whole;
    whole.ticket = null;
    collectives.wait(ticket);
    this.setWeights(step, whole.tensor);
  }

  /** Lets the whole weights go. */
  release(): void {
    if (this.counts.length === 1 || !this.whole) return;
    for (const parameter of this.parameters.values()) parameter.clearWeight();
    this.whole.tensor.free();
    this.whole = null;
  }

  /** Room for the whole gradient of one pack; the operations of a backward pass write every element of it. */
  openGradient(step: Arena): void {
    this.open = step.alloc("f32", this.unit.count);
    for (const parameter of this.parameters.values()) parameter.setGradient(step, this.open);
  }

  /**
   * Adds the opened gradients of the shard group's members that have a pack to the step's sum, in member order.
   * Returns what is in flight; null when it is done already.
   */
  reduceStart(
    step: Arena,
    collectives: Collectives,
    contributes: Uint8Array,
  ): { ticket: Ticket; sent: Tensor | null } | null {
    const sent = this.open;
    this.open = null;
    for (const parameter of this.parameters.values()) parameter.clearGradient();
    if (this.counts.length === 1) {
      if (sent) this.addWhole(sent);
      return null;
    }
    this.gradient ??= step.zeros("f32", this.range.length);
    const comm = collectives.require("shard");
    const ticket = collectives.native.reduceScatterStart(
      comm,
      this.gradient.id,
      sent?.id ?? 0,
      this.counts,
      contributes,
    );
    return { ticket: collectives.started("reduceScatter", ticket), sent };
  }

  private addWhole(gradient: Tensor): void {
    if (this.gradient === null) {
      this.gradient = gradient;
      return;
    }
    this.arena.native.tensorAdd(this.gradient.id, gradient.id);
    gradient.free();
  }

  dropGradient(): void {
    this.gradient?.free();
    this.gradient = null;
  }

  /** After an error, when everything of the step has been freed by its arena. */
  forgetStep(): void {
    this.gradient = null;
    this.open = null;
    for (const parameter of this.parameters.values()) parameter.forget(this.counts.length > 1);
    if (this.counts.length > 1) this.whole = null;
  }

  private setWeights(arena: Arena, flat: Tensor): void {
    for (const parameter of this.parameters.values()) parameter.setWeight(arena, flat);
  }
}

/** A parameter inside the flat runs of its unit. */
class UnitParameter implements Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  private readonly offset: number;
  private readonly count: number;
  private weightView: Tensor | null = null;
  private gradientView: Tensor | null = null;

  constructor(name: string, shape: readonly number[], offset: number, count: number) {
    this.name = name;
    this.shape = shape;
    this.offset = offset;
    this.count = count;
  }

  weight(): Tensor {
    if (!this.weightView)
      throw new GokuError("INTERNAL", `Cannot use ${this.name}: its weights are not gathered`);
    return this.weightView;
  }

  gradient(): Tensor {
    if (!this.gradientView)
      throw new GokuError("INTERNAL", `Cannot write the gradient of ${this.name}: it is not open`);
    return this.gradientView;
  }

  setWeight(arena: Arena, flat: Tensor): void {
    this.weightView = arena.view(flat, this.offset, this.count);
  }

  clearWeight(): void {
    this.weightView?.free();
    this.weightView = null;
  }

  setGradient(arena: Arena, flat: Tensor): void {
    this.gradientView = arena.view(flat, this.offset, this.count);
  }

  clearGradient(): void {
    this.gradientView?.free();
    this.gradientView = null;
  }

  forget(weights: boolean): void {
    this.gradientView = null;
    if (weights) this.weightView = null;
  }
}

/** Neighbouring parameters of one kind joined, cut to the shard. Decay is for tensors of two or more dimensions. */
function optimizerSegments(unit: FlatUnit, range: { start: number; length: number }): Float64Array {
  const segments: { start: number; end: number; decays: boolean }[] = [];
  for (const { spec, offset } of unit.parameters) {
    const start = Math.max(range.start, offset) - range.start;
    const end = Math.min(range.start + range.length, offset + spec.count) - range.start;
    if (start >= end) continue;
    const decays = spec.shape.length >= 2;
    const last = segments.at(-1);
    if (last && last.decays === decays) last.end = end;
    else segments.push({ start, end, decays });
  }
  return Float64Array.from(
    segments.flatMap(({ start, end, decays }) => [start, end - start, decays ? 1 : 0]),
  );
}
