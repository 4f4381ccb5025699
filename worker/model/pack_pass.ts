import type { Recompute } from "../../job/block_memory.js";
import type { ParameterSet } from "../engine/parameter.js";
import { Tape, Value } from "../engine/tape.js";
import { type Arena, readFloats, type Tensor } from "../engine/tensor.js";
import type { LocalPack } from "./local_pack.js";
import { packRope } from "./pack_context.js";
import { packWork } from "./pack_work.js";
import { block, embedPatches, head, type ModelContext, type ModelPack, timeVector } from "./transformer.js";

/**
 * One pack through the model, forward and backward, cut at the blocks, so that weights can come and gradients can go
 * in between. Call order: embed, block 0 .. depth-1, head, then headBackward, blockBackward depth-1 .. 0,
 * embedBackward. Parameters of a part must be gathered, and its gradient open, while the part runs.
 */
export class PackPass {
  /** Index of the pack within its step. */
  readonly slot: number;
  /** Multiply-adds of this rank's forward pass. */
  readonly work: number;
  /** This rank's part of the loss; known after `head`. */
  loss = 0;
  /** Factor of its loss: 1, unless a failpoint has spoilt it. */
  private spoiling = 1;
  private readonly arena: Arena;
  private readonly root: ParameterSet;
  private readonly context: ModelContext;
  private readonly recompute: Recompute;
  private readonly pack: LocalPack;
  private readonly modelPack: ModelPack;
  private readonly embedTape: Tape;
  private readonly headTape: Tape;
  private readonly blockTapes: (Tape | null)[] = [];
  /** Input of every block and of the head. */
  private readonly streams: Value[] = [];
  private timeSilu!: Value;

  /** Takes over the tensors of `pack`. */
  constructor(
    arena: Arena,
    root: ParameterSet,
    pack: LocalPack,
    context: ModelContext,
    recompute: Recompute,
  ) {
    this.slot = pack.slot;
    this.work = packWork(pack.shape, context.config, context.exchange?.heads ?? context.config.heads);
    this.arena = arena;
    this.root = root;
    this.pack = pack;
    this.context = context;
    this.recompute = recompute;
    const rope = packRope(arena, pack.shape, context.config);
    this.modelPack = { shape: pack.shape, rope, text: new Value(pack.text, false) };
    this.embedTape = this.tape();
    this.headTape = this.tape();
  }

  embed(): void {
    const tape = this.embedTape;
    const [x, timeSilu] = tape.scope(() => {
      const vector = timeVector(tape, this.root, this.pack.time, this.context);
      return [embedPatches(tape, this.root, tape.input(this.pack.patches), this.context), vector] as const;
    });
    this.pack.time.free();
    this.streams.push(x);
    this.timeSilu = timeSilu;
  }

  block(index: number, parameters: ParameterSet): void {
    const x = this.streams[index]!;
    const keep = this.recompute !== "full";
    const tape = keep ? this.tape() : new Tape(this.arena, { recording: false, frugal: false });
    const out = tape.scope(() => block(tape, parameters, x, this.timeSilu, this.modelPack, this.context));
    this.blockTapes[index] = keep ? tape : null;
    this.streams.push(keep ? out : new Value(out.tensor, true));
    if (keep) x.tensor.free();
  }

  private tape(): Tape {
    return new Tape(this.arena, { recording: true, frugal: this.recompute === "selective" });
  }

  /** Velocity and loss. `observe` sees the velocity [N, P] of this rank's tokens. */
  head(observe: ((velocity: Float32Array) => void) | null = null): void {
    const { arena, pack, headTape: tape } = this;
    const { native } = arena;
    const x = this.streams.at(-1)!;
    const velocity = tape.scope(() => head(tape, this.root, x, this.timeSilu, this.modelPack, this.context));
    x.tensor.free();
    const { tensor } = velocity;
    const gradient = arena.alloc("f32", ...tensor.shape);
    if (tensor.rows > 0) {
      const perSample = new Float64Array(pack.shape.samples);
      this.loss = native.flowLoss(
        gradient.id,
        tensor.id,
        pack.target.id,
        pack.lossWeights,
        perSample,
        pack.shape.offsets,
        tensor.columns,
      );
    }
    this.loss *= this.spoiling;
    observe?.(readFloats(native, tensor));
    velocity.giveGrad(arena, gradient);
    tensor.free();
    pack.target.free();
  }

  /** Multiplies the loss of this pack, once, as a broken device would (failpoints). */
  spoil(factor: number): void {
    if (this.spoiling !== 1) return;
    this.spoiling = factor;
    this.loss *= factor;
  }

  headBackward(): void {
    this.headTape.backward();
  }

  blockBackward(index: number, parameters: ParameterSet): void {
    const kept = this.blockTapes[index]!;
    if (kept) {
      kept.backward();
    } else {
      this.blockAgain(index, parameters);
    }
    this.blockTapes[index] = null;
  }

  /** Forward once more, recorded this time, then backward. */
  private blockAgain(index: number, parameters: ParameterSet): void {
    const tape = this.tape();
    const x = this.streams[index]!;
    const out = tape.scope(() => block(tape, parameters, x, this.timeSilu, this.modelPack, this.context));
    out.tensor.free();
    out.giveGrad(this.arena, this.streams[index + 1]!.takeGrad());
    tape.backward();
    x.tensor.free();
  }

  embedBackward(): void {
    this.embedTape.backward();
    this.timeSilu.tensor.free();
    const { rope, text } = this.modelPack;
    const tensors: Tensor[] = [rope.cos, rope.sin, text.tensor];
    for (const tensor of tensors) tensor.free();
  }
}
