import type { FileHandle } from "node:fs/promises";
import { GokuError } from "../job/errors.js";
import { openPlain } from "./open_plain.js";
import {
  HEADER_BYTES_MAX,
  readSafetensorsHeader,
  type SafetensorsEntry,
  type SafetensorsHeader,
} from "./safetensors.js";

const LENGTH_BYTES = 8;

/** A safetensors file of any size and any origin, open for reading tensor by tensor, in parts. */
export class SafetensorsFile {
  readonly path: string;
  readonly header: SafetensorsHeader;
  readonly #file: FileHandle;

  private constructor(path: string, header: SafetensorsHeader, file: FileHandle) {
    this.path = path;
    this.header = header;
    this.#file = file;
  }

  /**
   * Reads the header alone, and takes memory for it only once the file is seen to hold one of that length.
   * Throws NOT_FOUND, ARGUMENT_INVALID (a link, a folder, a pipe), CHECKPOINT_CORRUPT.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    const file = await openPlain(path);
    try {
      const { size } = await file.stat();
      const length = new Uint8Array(Math.min(LENGTH_BYTES, size));
      await fill(file, path, 0, length);
      const claimed = size < LENGTH_BYTES ? 0n : new DataView(length.buffer).getBigUint64(0, true);
      if (claimed > BigInt(Math.min(size - LENGTH_BYTES, HEADER_BYTES_MAX)) && size >= LENGTH_BYTES) {
        const found = `the header says ${claimed} bytes, ${size - LENGTH_BYTES} follow`;
        const want = `the format allows ${HEADER_BYTES_MAX}`;
        throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${path}: ${found}, ${want}`);
      }
      const bytes = size < LENGTH_BYTES ? length : new Uint8Array(LENGTH_BYTES + Number(claimed));
      await fill(file, path, 0, bytes);
      const header = readSafetensorsHeader(bytes, path);
      if (header.fileBytes !== size) {
        const found = `${size} bytes, its header wants ${header.fileBytes}`;
        throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${path}: ${found}`);
      }
      return new SafetensorsFile(path, header, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Bytes [start, start + into.byteLength) of one tensor. */
  async read(entry: SafetensorsEntry, start: number, into: Uint8Array): Promise<void> {
    await fill(this.#file, this.path, entry.offset + start, into);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

async function fill(file: FileHandle, path: string, offset: number, into: Uint8Array): Promise<void> {
  for (let done = 0; done < into.byteLength; ) {
    const { bytesRead } = await file.read(into, done, into.byteLength - done, offset + done);
    if (bytesRead === 0) {
      const found = `it ends at byte ${offset + done}, want ${offset + into.byteLength}`;
      throw new GokuError("STORAGE_FAILED", `Cannot read ${path}: ${found}; it changed while it was read`);
    }
    done += bytesRead;
  }
}
