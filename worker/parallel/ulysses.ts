/**
 * Sequence parallelism as DeepSpeed-Ulysses does it (arXiv 2309.14509), but uneven: the tokens of a pack and the heads
 * of the model are each split as evenly as whole numbers allow, and a rank may hold no token or no head.
 *
 * toHeads: member u sends to member w its own tokens of w's heads; blocks arrive in member order, which is token order,
 * so that the output needs no unpacking. toTokens is the way back: rows leave unpacked, columns arrive.
 */
import { evenSplit } from "../../job/layout.js";
import type { Ticket } from "../engine/native.js";
import type { Tape, Value } from "../engine/tape.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import type { PackShape } from "../model/pack_context.js";
import type { SequenceExchange } from "../model/transformer.js";
import type { Collectives } from "./collectives.js";

interface Part {
  start: number;
  length: number;
}

export class Ulysses implements SequenceExchange {
  readonly heads: number;
  private readonly collectives: Collectives;
  private readonly parts: number;
  private readonly headWidth: number;
  private readonly headParts: readonly Part[];

  /** @param index place in the sequence group of `parts` members. */
  constructor(
    collectives: Collectives,
    options: { parts: number; index: number; heads: number; headWidth: number },
  ) {
    this.collectives = collectives;
    this.parts = options.parts;
    this.headWidth = options.headWidth;
    this.headParts = splits(options.heads, options.parts);
    this.heads = this.headParts[options.index]!.length;
  }

  toHeads(tape: Tape, values: readonly [Value, Value, Value], shape: PackShape): [Value, Value, Value] {
    const { arena } = tape;
    const moved = this.scatter(
      arena,
      values.map((value) => value.tensor),
      shape,
    );
    const outs = moved.map((tensor) => tape.output(tensor)) as [Value, Value, Value];
    if (tape.recording) {
      tape.record([], () => {
        const gradients = outs.map((out) => out.takeGrad());
        const back = this.gather(arena, gradients, shape);
        for (const gradient of gradients) gradient.free();
        for (const [i, value] of values.entries()) value.giveGrad(arena, back[i]!);
      });
    }
    return outs;
  }

  toTokens(tape: Tape, value: Value, shape: PackShape): Value {
    const { arena } = tape;
    const out = tape.output(this.gather(arena, [value.tensor], shape)[0]!);
    if (tape.recording) {
      tape.record([], () => {
        const gradient = out.takeGrad();
        value.giveGrad(arena, this.scatter(arena, [gradient], shape)[0]!);
        gradient.free();
      });
    }
    return out;
  }

  /** [tokens of this rank, H*d] each -> [tokens of the pack, heads*d]. */
  private scatter(arena: Arena, inputs: readonly Tensor[], shape: PackShape): Tensor[] {
    const rows = shape.local.length;
    const d = this.headWidth;
    const tokens = splits(shape.tokens, this.parts);
    const sendCounts = Float64Array.from(this.headParts, (part) => rows * part.length * d);
    const receiveCounts = Float64Array.from(tokens, (part) => part.length * this.heads * d);
    return this.exchange(arena, inputs, receiveCounts, sendCounts, {
      pack: (input) => this.packColumns(arena, input, rows),
      unpack: (received) => received,
      shape: [shape.tokens, this.heads * d],
    });
  }

  /** [tokens of the pack, heads*d] each -> [tokens of this rank, H*d]. */
  private gather(arena: Arena, inputs: readonly Tensor[], shape: PackShape): Tensor[] {
    const rows = shape.local.length;
    const d = this.headWidth;
    const tokens = splits(shape.tokens, this.parts);
    const sendCounts = Float64Array.from(tokens, (part) => part.length * this.heads * d);
    const receiveCounts = Float64Array.from(this.headParts, (part) => rows * part.length * d);
    return this.exchange(arena, inputs, receiveCounts, sendCounts, {
      pack: (input) => input.retain(),
      unpack: (received) => this.unpackColumns(arena, received, rows),
      shape: [rows, this.totalHeads * d],
    });
  }

  private get totalHeads(): number {
    const last = this.headParts[this.parts - 1]!;
    return last.start + last.length;
  }

  /** All exchanges are in flight before the first is waited for. */
  private exchange(
    arena: Arena,
    inputs: readonly Tensor[],
    receiveCounts: Float64Array,
    sendCounts: Float64Array,
    form: { pack: (input: Tensor) => Tensor; unpack: (received: Tensor) => Tensor; shape: [number, number] },
  ): Tensor[] {
    const comm = this.collectives.require("sequence");
    const { native } = this.collectives;
    const flights: { ticket: Ticket; sent: Tensor; received: Tensor }[] = inputs.map((input) => {
      const sent = form.pack(input);
      const received = arena.alloc(input.dtype, ...form.shape);
      const ticket = native.allToAllStart(comm, received.id, receiveCounts, sent.id, sendCounts);
      return { ticket: this.collectives.started("allToAll", ticket), sent, received };
    });
    return flights.map(({ ticket, sent, received }) => {
      this.collectives.wait(ticket);
      sent.free();
      return form.unpack(received);
    });
  }

  /** [rows, H*d] -> for each member in turn, [rows, its heads * d]. */
  private packColumns(arena: Arena, input: Tensor, rows: number): Tensor {
    const width = this.totalHeads * this.headWidth;
    const packed = arena.alloc(input.dtype, rows, width);
    for (const part of this.headParts) {
      const columns = part.length * this.headWidth;
      const first = part.start * this.headWidth;
      if (rows > 0 && columns > 0) {
        arena.native.copy2d(packed.id, rows * first, columns, input.id, first, width, rows, columns);
      }
    }
    return packed;
  }

  /** Inverse of packColumns; takes over `received`. */
  private unpackColumns(arena: Arena, received: Tensor, rows: number): Tensor {
    const width = this.totalHeads * this.headWidth;
    const out = arena.alloc(received.dtype, rows, width);
    for (const part of this.headParts) {
      const columns = part.length * this.headWidth;
      const first = part.start * this.headWidth;
      if (rows > 0 && columns > 0) {
        arena.native.copy2d(out.id, first, width, received.id, rows * first, columns, rows, columns);
      }
    }
    received.free();
    return out;
  }
}

function splits(count: number, parts: number): Part[] {
  return Array.from({ length: parts }, (_, index) => evenSplit({ count, parts, index }));
}
