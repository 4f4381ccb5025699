import { GokuError } from "./errors.js";
import { type PackTemplate, packTemplates, type SizeClass } from "./pack_templates.js";
import { Permutation } from "./permutation.js";

/** Permutation domains of one epoch: the order of packs, then one domain per size class. */
const DOMAIN_PACKS = 0;
const DOMAIN_CLASS_FIRST = 1;

export interface LeftOutSample {
  sample: number; // index into the sizes
  tokens: number;
  reason: string;
}

/** How well the samples fill their packs; the same for every epoch. */
export interface PackReport {
  tokensPerPack: number;
  packsPerEpoch: number;
  samples: number; // all that were given
  samplesPacked: number;
  tokensPerEpoch: number;
  /** tokensPerEpoch / (packsPerEpoch * tokensPerPack), 0..1. */
  fill: number;
  packTokensMin: number;
  packTokensMax: number;
  packSamplesMin: number;
  packSamplesMax: number;
  leftOut: LeftOutSample[];
}

export interface Pack {
  /** Global number, from 0, over all epochs. */
  packIndex: number;
  epoch: number;
  samples: number[]; // indices into the sizes
  tokens: number;
}

/**
 * Whole samples into packs of at most tokensPerPack tokens: a pure function of (sizes, seed, epoch).
 *
 * The composition of packs (how many samples of which size) is fixed once by best-fit decreasing. An epoch only permutes
 * which pack comes when, and which sample of a size takes which slot of that size. Any pack of any epoch is therefore found
 * without packing those before it, every epoch has the same number of packs, and each sample appears exactly once in it.
 */
export class Packer {
  readonly report: PackReport;
  private readonly templates: readonly PackTemplate[];
  private readonly members: Uint32Array[] = []; // samples of each size class, ascending
  private epochNow = -1;
  private packOrder: Permutation | null = null;
  private readonly slotOrders = new Map<number, Permutation>();

  constructor(private readonly options: { sizes: ArrayLike<number>; tokensPerPack: number; seed: number }) {
    const { sizes, tokensPerPack } = options;
    const leftOut: LeftOutSample[] = [];
    const counts = new Map<number, number>();
    for (let sample = 0; sample < sizes.length; sample++) {
      const tokens = sizes[sample]!;
      if (!Number.isInteger(tokens) || tokens < 1)
        throw new RangeError(`Packer: sizes[${sample}] is ${tokens}, need a whole number of at least 1`);
      if (tokens > tokensPerPack)
        leftOut.push({ sample, tokens, reason: `${tokens} tokens do not fit a pack of ${tokensPerPack}` });
      else counts.set(tokens, (counts.get(tokens) ?? 0) + 1);
    }
    const classes: SizeClass[] = [...counts]
      .sort((a, b) => b[0] - a[0])
      .map(([tokens, count]) => ({ tokens, count }));
    this.collectMembers(classes);
    this.templates = packTemplates(classes, tokensPerPack);
    this.report = this.describe(leftOut);
  }

  get packsPerEpoch(): number {
    return this.report.packsPerEpoch;
  }

  /** Pack `packIndex` counted over all epochs from 0. @throws GokuError DATA_EMPTY when no sample fits a pack. */
  pack(packIndex: number): Pack {
    if (this.packsPerEpoch === 0) {
      throw new GokuError(
        "DATA_EMPTY",
        `Cannot form packs: 0 of ${this.report.samples} samples fit ${this.options.tokensPerPack} tokens, raise train.tokens_per_pack`,
      );
    }
    const epoch = Math.floor(packIndex / this.packsPerEpoch);
    this.enterEpoch(epoch);
    const place = this.packOrder!.at(packIndex % this.packsPerEpoch);
    const template = this.templateOf(place);
    const samples: number[] = [];
    for (const entry of template.entries) {
      const slotFirst = entry.slotStart + (place - template.packStart) * entry.perPack;
      for (let i = 0; i < entry.perPack; i++) samples.push(this.sampleAt(entry.sizeClass, slotFirst + i));
    }
    return { packIndex, epoch, samples, tokens: template.tokens };
  }

  private collectMembers(classes: readonly SizeClass[]): void {
    const { sizes } = this.options;
    const classOf = new Map(classes.map(({ tokens }, index) => [tokens, index]));
    const filled = new Uint32Array(classes.length);
    for (const { count } of classes) this.members.push(new Uint32Array(count));
    for (let sample = 0; sample < sizes.length; sample++) {
      const index = classOf.get(sizes[sample]!);
      if (index !== undefined) this.members[index]![filled[index]!++] = sample;
    }
  }

  private enterEpoch(epoch: number): void {
    if (epoch === this.epochNow) return;
    this.epochNow = epoch;
    this.slotOrders.clear();
    this.packOrder = new Permutation({
      count: this.packsPerEpoch,
      seed: this.options.seed,
      epoch,
      domain: DOMAIN_PACKS,
    });
  }

  private sampleAt(sizeClass: number, slot: number): number {
    const members = this.members[sizeClass]!;
    let order = this.slotOrders.get(sizeClass);
    if (!order) {
      order = new Permutation({
        count: members.length,
        seed: this.options.seed,
        epoch: this.epochNow,
        domain: DOMAIN_CLASS_FIRST + sizeClass,
      });
      this.slotOrders.set(sizeClass, order);
    }
    return members[order.at(slot)]!;
  }

  /** The template that contains pack `place` of the canonical order. */
  private templateOf(place: number): PackTemplate {
    let low = 0;
    let high = this.templates.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.templates[middle]!.packStart <= place) low = middle;
      else high = middle - 1;
    }
    return this.templates[low]!;
  }

  private describe(leftOut: LeftOutSample[]): PackReport {
    let packsPerEpoch = 0;
    let tokensPerEpoch = 0;
    let packTokensMin = Number.POSITIVE_INFINITY;
    let packTokensMax = 0;
    let packSamplesMin = Number.POSITIVE_INFINITY;
    let packSamplesMax = 0;
    for (const template of this.templates) {
      packsPerEpoch += template.packCount;
      tokensPerEpoch += template.packCount * template.tokens;
      packTokensMin = Math.min(packTokensMin, template.tokens);
      packTokensMax = Math.max(packTokensMax, template.tokens);
      const samples = template.entries.reduce((sum, { perPack }) => sum + perPack, 0);
      packSamplesMin = Math.min(packSamplesMin, samples);
      packSamplesMax = Math.max(packSamplesMax, samples);
    }
    const { sizes, tokensPerPack } = this.options;
    return {
      tokensPerPack,
      packsPerEpoch,
      samples: sizes.length,
      samplesPacked: sizes.length - leftOut.length,
      tokensPerEpoch,
      fill: packsPerEpoch === 0 ? 0 : tokensPerEpoch / (packsPerEpoch * tokensPerPack),
      packTokensMin: packsPerEpoch === 0 ? 0 : packTokensMin,
      packTokensMax,
      packSamplesMin: packsPerEpoch === 0 ? 0 : packSamplesMin,
      packSamplesMax,
      leftOut,
    };
  }
}
