import { CHECKPOINT_URI_WANTED, parseS3Uri } from "../../job/checkpoint_uri.js";
import { GokuError } from "../../job/errors.js";
import { directDisk } from "./direct_disk.js";
import { type Disk, nodeDisk } from "./disk.js";
import { FileStorage } from "./file.js";
import { S3Storage } from "./s3.js";

/** What a listing or a stat says of one key. */
export interface StorageEntry {
  key: string;
  bytes: number;
}

/**
 * Durable storage over string keys ("checkpoint-40/g3-w0.json"), relative to one root. No path type: those damage `s3://`.
 *
 * Every implementation promises:
 * - a key is seen whole or not at all, also after a crash at any instant;
 * - when a write resolves, its bytes and its name are durable;
 * - errors are GokuErrors: NOT_FOUND (no such key), STORAGE_FULL, ARGUMENT_INVALID (a key that leaves the root),
 *   STORAGE_FAILED (everything else).
 */
export interface Storage {
  /** Root as its user named it, without a trailing slash. */
  readonly uri: string;
  /**
   * Streams chunks into a key, replacing what stood there. A chunk is not read any more once the next is asked for.
   * `bytesExpected` is a hint: S3 must choose the size of parts before it has seen the last.
   */
  writeFile(
    key: string,
    chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    bytesExpected?: number,
  ): Promise<StorageEntry>;
  /**
   * Creates a key that must not exist; false when it does (and then nothing changed). Every key of the same folder
   * that could be seen before the call is durable before this one appears. The folder must exist.
   */
  createExclusive(key: string, bytes: Uint8Array): Promise<boolean>;
  /** Fills `into` with the bytes from `offset` on; STORAGE_FAILED when the key ends earlier. */
  read(key: string, offset: number, into: Uint8Array): Promise<void>;
  /** The whole of a small key; STORAGE_FAILED when it is larger than `bytesMax`. */
  readFile(key: string, bytesMax: number): Promise<Uint8Array>;
  /** Keys that begin with `prefix`, which is "" or ends with "/"; sorted; unfinished writes are left out. */
  list(prefix: string): Promise<StorageEntry[]>;
  /** Folder names directly under `prefix`, sorted, also of folders that hold only unfinished writes. */
  folders(prefix: string): Promise<string[]>;
  /** Null when there is no such key. */
  stat(key: string): Promise<StorageEntry | null>;
  /** Removes keys, durably before it resolves, in no promised order; missing ones are no error. */
  delete(keys: readonly string[]): Promise<void>;
  /** Removes a folder ("checkpoint-40/") if nothing is left in it. */
  removeFolder(prefix: string): Promise<void>;
  /**
   * Removes the unfinished writes directly in a folder whose target key is chosen, and returns how many. Those to a key that
   * is there may stay until it is deleted.
   */
  removeUnfinished(prefix: string, choose: (target: string) => boolean): Promise<number>;
}

/**
 * Opens `file://PATH` (PATH may be relative), a bare path, or `s3://BUCKET/PREFIX`. Nothing is created, and no server
 * asked, before the first use.
 */
export function openStorage(uri: string): Storage {
  return openOn(uri, nodeDisk);
}

/** The same, with reads of files that go past the page cache where they can: what is read was on the storage. */
export function openUncached(uri: string): Storage {
  return openOn(uri, directDisk());
}

function openOn(uri: string, disk: Disk): Storage {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/i.exec(uri);
  const refuse = (what: string) =>
    new GokuError(
      "ARGUMENT_INVALID",
      `Cannot open storage ${JSON.stringify(uri)}: ${what}, want ${CHECKPOINT_URI_WANTED}`,
    );
  if (scheme?.[1] === "s3") {
    const place = parseS3Uri(uri);
    if (place === null) throw refuse("it names no bucket, or a prefix that is no plain names joined by /");
    return new S3Storage(place);
  }
  if (scheme !== null && scheme[1] !== "file") throw refuse(`found ${scheme[1]}://`);
  const path = scheme?.[2] ?? uri;
  if (path === "" || path.includes("\0")) throw refuse("the path is empty or holds a NUL");
  return new FileStorage(path, uri.replace(/(?<=[^/])\/+$/, ""), disk);
}

/** The folder that a storage address names, for what is appended to there; null: it names none. */
export function localFolder(uri: string): string | null {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/i.exec(uri);
  return scheme === null ? uri : scheme[1]!.toLowerCase() === "file" ? scheme[2]! : null;
}

const SEGMENT = /^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,199}$/;

/** Whether a file or folder name can be part of a key; names of unfinished writes cannot. */
export function isKeySegment(name: string): boolean {
  return SEGMENT.test(name);
}

/** Segments of a key, each a plain name: nothing that could leave the root or name an unfinished write. */
export function keySegments(key: string): string[] {
  const segments = key.split("/");
  if (segments.length > 8 || !segments.every(isKeySegment)) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot use key ${JSON.stringify(key.slice(0, 200))}: want names of letters, digits and ._@+- joined by "/"`,
    );
  }
  return segments;
}
