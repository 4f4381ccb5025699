import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { fnv1a, philoxNormals } from "../../job/philox.js";
import { LruCache } from "./lru_cache.js";

/** Text of one sample as the model sees it. */
export interface EncodedText {
  /** Tokens, at least 1. */
  length: number;
  /** [length, width]. */
  data: Float32Array;
}

export interface TextSettings {
  width: number;
  /** The end token included. */
  tokensMax: number;
}

export function textSettings(job: Job, model: ModelConfig): TextSettings {
  return { width: model.text_width, tokensMax: job.data.text_tokens };
}

/** Parts of a token. Squares add to 1, so a token has unit variance. */
const WORD_PART = 0.76;
const PREVIOUS_PART = 0.45;
const POSITION_PART = Math.sqrt(1 - WORD_PART ** 2 - PREVIOUS_PART ** 2);

/** Stream of the text vectors; their key is the word, not a job's seed, so that every job encodes alike. */
const TEXT_STREAM = 16;
const ROLE = { word: 0, previous: 1, position: 2 } as const;

/** Memory for vectors of words: all that a caption of 512 words needs at a width of 4096, and those that are used most. */
const VECTOR_BYTES = 32 * 2 ** 20;

/** Stand in the place of words; angle brackets cannot occur in one. */
const END = "<end>";
const START = "<start>";

/**
 * Deterministic text encoder without learnt weights, standing where FLAN-T5 will.
 *
 * Token i is the sum of a random but fixed direction for its word, another for the word before it, and one for its position.
 * So "circle" in "a red circle left of a blue square" says itself that it is red and that it comes first, where a bag of words
 * could not tell who is left; and since the parts add, a pair of words never seen together still decomposes.
 * The end token closes every text, hence an empty caption is one token and not none.
 */
export class HashTextEncoder {
  private readonly vectors = new LruCache(VECTOR_BYTES);

  constructor(private readonly options: TextSettings) {
    if (options.tokensMax < 1)
      throw new RangeError(
        `HashTextEncoder: tokensMax is ${options.tokensMax}, need at least 1 (the end token)`,
      );
  }

  encode(caption: string): EncodedText {
    const { width } = this.options;
    const tokens = this.tokensOf(caption);
    const data = new Float32Array(tokens.length * width);
    for (const [position, token] of tokens.entries()) {
      const row = data.subarray(position * width, (position + 1) * width);
      addScaled(row, this.vector(ROLE.word, token), WORD_PART);
      addScaled(row, this.vector(ROLE.previous, tokens[position - 1] ?? START), PREVIOUS_PART);
      addScaled(row, this.vector(ROLE.position, String(position)), POSITION_PART);
    }
    return { length: tokens.length, data };
  }

  /** Tokens of a caption, without encoding it. */
  lengthOf(caption: string): number {
    return this.tokensOf(caption).length;
  }

  private tokensOf(caption: string): string[] {
    return [...captionWords(caption).slice(0, this.options.tokensMax - 1), END];
  }

  /** Fixed random vector of mean square 1. */
  private vector(role: number, text: string): Float32Array {
    const name = `${role} ${text}`;
    const known = this.vectors.get(name);
    if (known) return known;
    const vector = new Float32Array(this.options.width);
    const key = { low: fnv1a(text), high: fnv1a(text, 0x9e3779b9) };
    philoxNormals(vector, key, { stream: TEXT_STREAM, step: 0, which: role });
    let square = 0;
    for (const value of vector) square += value * value;
    const scale = Math.sqrt(vector.length / square);
    for (let i = 0; i < vector.length; i++) vector[i]! *= scale;
    this.vectors.set(name, vector);
    return vector;
  }
}

/** Words of a caption: compatibility-normalised, lower case; letters, digits and inner apostrophes or hyphens only. */
export function captionWords(caption: string): string[] {
  return (
    caption
      .normalize("NFKC")
      .toLowerCase()
      .match(/[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu) ?? []
  );
}

function addScaled(row: Float32Array, vector: Float32Array, scale: number): void {
  for (let i = 0; i < row.length; i++) row[i]! += scale * vector[i]!;
}
