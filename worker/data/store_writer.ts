import type { FileHandle } from "node:fs/promises";

/** Writes the latents of samples into a store one after another, as long as they fit. */
export class StoreWriter {
  private numbers = 0;

  constructor(
    private readonly file: Pick<FileHandle, "write">,
    private readonly bytesMax: number,
  ) {}

  /** Where the latents begin in the store, in numbers, or -1 when they did not fit. */
  async write(latents: Float32Array): Promise<number> {
    if ((this.numbers + latents.length) * 4 > this.bytesMax) return -1;
    const offset = this.numbers;
    const bytes = new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength);
    // a write may take less than it was given
    for (let done = 0; done < bytes.length; )
      done += (await this.file.write(bytes, done, bytes.length - done, 4 * offset + done)).bytesWritten;
    this.numbers += latents.length;
    return offset;
  }
}
