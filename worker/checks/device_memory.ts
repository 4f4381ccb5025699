import type { CheckPlace } from "../check_messages.js";
import { DTYPE, type Native, type TensorId } from "../engine/native.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";
import { addressWord, BUDGET_MS_SHORT, fillPattern, wrongText } from "./patterns.js";
import { repeatFirst } from "./repeat_first.js";

const REGION_BYTES = 256 * 2 ** 20;
const REGION_BYTES_SHORT = 16 * 2 ** 20;
/** Of a small device: the rest may be somebody's. */
const REGION_SHARE = 1 / 16;
/** Written by the host once and copied on the device from there; read back by as much. */
const CHUNK_WORDS = 2 ** 20;
/** The first word of each page has the page's number: chunks with the same pattern differ from one another. */
const PAGE_WORDS = 1024;
const PAGES_PER_CHUNK = CHUNK_WORDS / PAGE_WORDS;

/**
 * The patterns of the node's own memory over memory of the device: the host writes one chunk, the device copies it over the
 * region, every page gets its number, and the host reads all of it back and compares. What differs was wrong in the device's
 * memory, its copy engines, or on the bus.
 */
export function checkDeviceMemory(native: Native, { budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  const region = new Region(native, regionChunks(native, budgetMs));
  const begunMs = performance.now();
  let pattern = 0;
  try {
    do {
      region.write(pattern);
      if (failpoint("selfcheck.device.memory") === "flip") region.flip();
      const wrong = region.firstWrong(pattern);
      if (wrong !== null) return { ok: false, value: 0, unit: "MiB", detail: wrong };
      pattern += 1;
    } while (performance.now() - begunMs < budgetMs);
  } finally {
    region.free();
  }
  return {
    ok: true,
    value: pattern * region.MiB,
    unit: "MiB",
    detail: `${pattern} patterns over ${region.MiB} MiB of it`,
  };
}

function regionChunks(native: Native, budgetMs: number): number {
  const most = native.devices()[0]!.memoryBytes * REGION_SHARE;
  const bytes = Math.min(most, budgetMs < BUDGET_MS_SHORT ? REGION_BYTES_SHORT : REGION_BYTES);
  return Math.max(1, Math.floor(bytes / (4 * CHUNK_WORDS)));
}

/** So many chunks of the device's memory. Words are raw bits in tensors of f32, which are copied and never computed with. */
class Region {
  readonly MiB: number;
  private readonly native: Native;
  private readonly chunks: number;
  private readonly tensor: TensorId;
  /** Of all pages, one after another. */
  private readonly numbers: TensorId;
  private readonly wanted = new Uint32Array(CHUNK_WORDS);
  private readonly held = new Uint32Array(CHUNK_WORDS);

  constructor(native: Native, chunks: number) {
    this.native = native;
    this.chunks = chunks;
    this.MiB = (chunks * CHUNK_WORDS * 4) / 2 ** 20;
    const pages = chunks * PAGES_PER_CHUNK;
    this.tensor = native.tensorAlloc(DTYPE.f32, chunks * CHUNK_WORDS);
    this.numbers = native.tensorAlloc(DTYPE.f32, pages);
    native.tensorWrite(
      this.numbers,
      0,
      bytesOf(Uint32Array.from({ length: pages }, (_, page) => addressWord(page))),
    );
  }

  free(): void {
    this.native.tensorFree(this.tensor);
    this.native.tensorFree(this.numbers);
  }

  write(pattern: number): void {
    const { native, tensor, numbers, chunks } = this;
    fillPattern(this.wanted, pattern);
    native.tensorWrite(tensor, 0, bytesOf(this.wanted));
    repeatFirst(native, tensor, { unit: CHUNK_WORDS, times: chunks });
    native.copy2d(tensor, 0, PAGE_WORDS, numbers, 0, 1, chunks * PAGES_PER_CHUNK, 1);
  }

  /** Turns a bit of the device's memory. */
  flip(): void {
    const { native, tensor } = this;
    const middle = (this.chunks * CHUNK_WORDS) / 2 + 7;
    const word = new Uint32Array(1);
    native.tensorRead(tensor, middle, bytesOf(word));
    word[0]! ^= 1 << 7;
    native.tensorWrite(tensor, middle, bytesOf(word));
  }

  /** The first word that is not what was written, for people; null: all are. */
  firstWrong(pattern: number): string | null {
    const { native, tensor, wanted, held } = this;
    for (let chunk = 0; chunk < this.chunks; chunk++) {
      for (let page = 0; page < PAGES_PER_CHUNK; page++)
        wanted[page * PAGE_WORDS] = addressWord(chunk * PAGES_PER_CHUNK + page);
      native.tensorRead(tensor, chunk * CHUNK_WORDS, bytesOf(held));
      if (bytesOf(held).equals(bytesOf(wanted))) continue;
      const i = held.findIndex((word, at) => word !== wanted[at]);
      return wrongText({ pattern, word: chunk * CHUNK_WORDS + i, held: held[i]!, wanted: wanted[i]! });
    }
    return null;
  }
}

function bytesOf(words: Uint32Array): Buffer {
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength);
}
