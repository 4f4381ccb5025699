import { type CodecRecord, patchNumbers, toPatches } from "./latents.js";
import type { SampleReader, SampleRequest } from "./sample_reader.js";
import type { HashTextEncoder } from "./text_encoder.js";

/** What the prefetch thread is asked for: one pack. */
export interface PackRequest {
  /** Of the request; its answer has the same. */
  id: number;
  /** `excluded`: it is not to be read. */
  samples: (SampleRequest & { caption: string; excluded: boolean })[];
}

/** Arrays of one pack; the fields are those of PackBatch. */
export interface AssembledPack {
  id: number;
  textLengths: number[];
  data: Float32Array;
  text: Float32Array;
  weights: number[];
  unreadable: { sample: string; reason: string }[];
}

/** Reads, encodes and normalises the samples of one pack. An unreadable or excluded one keeps its place: zeros, with weight 0. */
export async function assemblePack(
  request: PackRequest,
  tools: { reader: SampleReader; text: HashTextEncoder; codec: CodecRecord },
): Promise<AssembledPack> {
  const { reader, text, codec } = tools;
  const { samples, id } = request;
  const results = await Promise.all(samples.map((sample) => (sample.excluded ? null : reader.read(sample))));
  const numbers = samples.map(({ grid }) => grid[0] * grid[1] * grid[2] * patchNumbers(codec));
  const data = new Float32Array(sum(numbers));
  const weights: number[] = [];
  const unreadable: AssembledPack["unreadable"] = [];
  let offset = 0;
  for (const [i, result] of results.entries()) {
    const { name, grid } = samples[i]!;
    const latents = result && "latents" in result ? result.latents : null;
    if (result && "reason" in result) unreadable.push({ sample: name, reason: result.reason });
    if (latents) {
      const [pt, ph, pw] = codec.patch;
      toPatches(
        latents,
        { channels: codec.channels, t: grid[0] * pt, y: grid[1] * ph, x: grid[2] * pw },
        codec,
        data,
        offset,
      );
    }
    weights.push(latents ? 1 : 0);
    offset += numbers[i]!;
  }
  const texts = samples.map(({ caption }) => text.encode(caption));
  const textData = new Float32Array(sum(texts.map((encoded) => encoded.data.length)));
  let textOffset = 0;
  for (const encoded of texts) {
    textData.set(encoded.data, textOffset);
    textOffset += encoded.data.length;
  }
  return { id, textLengths: texts.map(({ length }) => length), data, text: textData, weights, unreadable };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
