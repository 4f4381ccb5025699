import { randomUUID } from "node:crypto";
import type { CompletedPart, GetObjectCommandOutput, S3 } from "@aws-sdk/client-s3";
import type { S3Place } from "../../job/checkpoint_uri.js";
import { GokuError } from "../../job/errors.js";
import { drainBody, pauseBefore } from "./s3_body.js";
import { connectS3, endpointName, type S3Settings, s3Settings } from "./s3_client.js";
import { isAmbiguous, isMissing, isUnsupported, isUnsure, s3Error, s3Fault } from "./s3_error.js";
import { partBytesFor, type UploadRequests, upload } from "./s3_upload.js";
import { isKeySegment, keySegments, type Storage, type StorageEntry } from "./storage.js";

/** The most that one DeleteObjects takes. */
const DELETE_MAX = 1_000;
/** Of a conditional create or of a body that broke off, each of them with the SDK's own attempts. */
const TRIES_MAX = 3;
/** Lies in the root for good, so that one request tells whether the server honours `If-None-Match: *`. */
const PROBE = ".conditional-write-probe";
/** Metadata that names the upload that made a key. */
const UPLOAD_MARK = "goku-upload";

export interface S3Options {
  settings: S3Settings;
  /** Of a multipart upload; null: chosen by the size that the caller expects. */
  partBytes: number | null;
}

/**
 * Storage under a prefix of an S3 bucket. S3 shows a key whole or not at all and acknowledges only what is durable; what is
 * left to do is never to take a lost answer for a failure, nor for a success: see `createExclusive` and `#complete`.
 */
export class S3Storage implements Storage {
  readonly uri: string;
  readonly #bucket: string;
  /** "" or ends with "/". */
  readonly #root: string;
  readonly #options: S3Options;
  #conditional: Promise<void> | null = null;

  constructor(place: S3Place, options: S3Options = { settings: s3Settings(process.env), partBytes: null }) {
    this.uri = `s3://${place.bucket}${place.prefix === "" ? "" : `/${place.prefix}`}`;
    this.#bucket = place.bucket;
    this.#root = place.prefix === "" ? "" : `${place.prefix}/`;
    this.#options = options;
  }

  async writeFile(
    key: string,
    chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    bytesExpected = 0,
  ): Promise<StorageEntry> {
    const target = this.#target(key);
    return this.#guard("write", key, async (s3) => {
      const partBytes = this.#options.partBytes ?? partBytesFor(bytesExpected);
      return { key, bytes: await upload(this.#uploadRequests(s3, target), chunks, partBytes) };
    });
  }

  /**
   * A lost answer, a server's error or a conflict leaves open whether the key was made: it is read back then, and is ours
   * where it holds our bytes. "Taken" counts as made by another only where no request of ours can have made it.
   */
  async createExclusive(key: string, bytes: Uint8Array): Promise<boolean> {
    const target = this.#target(key);
    return this.#guard("create", key, async (s3) => {
      await this.#requireFolder(s3, key);
      await this.#requireConditionalWrites(s3);
      for (let tries = 1, unsure = false; ; tries++) {
        try {
          await this.#putNew(s3, target, bytes);
          return true;
        } catch (error) {
          const fault = s3Fault(error);
          unsure ||= isUnsure(fault);
          if (fault.status !== 412 && fault.status !== 409 && !isAmbiguous(fault)) throw error;
          const found = unsure ? await this.#compare(key, bytes) : null;
          if (found === "same") return true;
          if (found === "other" || fault.status === 412) return false;
          if (tries === TRIES_MAX) throw error;
          await pauseBefore(tries);
        }
      }
    });
  }

  async read(key: string, offset: number, into: Uint8Array): Promise<void> {
    const wanted = offset + into.byteLength;
    const short = (end: number) => this.#refuse("read", key, `it ends at byte ${end}, want ${wanted}`);
    if (into.byteLength === 0) {
      // There is no range of nothing.
      const { bytes } = await this.#statOrThrow(key);
      if (bytes < offset) throw short(bytes);
      return;
    }
    const found = await this.#download(
      key,
      `bytes=${offset}-${wanted - 1}`,
      ({ ContentLength, ContentRange }) => {
        const count = ContentLength ?? 0;
        if (offset > 0 && !ContentRange?.startsWith(`bytes ${offset}-`))
          throw this.#refuse("read", key, "the server ignores ranges, use one that honours them");
        if (count < into.byteLength) throw short(offset + count);
        return into;
      },
    );
    if (found === null) throw short((await this.#statOrThrow(key)).bytes);
  }

  async readFile(key: string, bytesMax: number): Promise<Uint8Array> {
    const found = await this.#download(key, null, ({ ContentLength }) => {
      const bytes = ContentLength ?? 0;
      if (bytes > bytesMax) throw this.#refuse("read", key, `${bytes} bytes, want at most ${bytesMax}`);
      return new Uint8Array(bytes);
    });
    return found!;
  }

  async list(prefix: string): Promise<StorageEntry[]> {
    const within = this.#prefix(prefix);
    return this.#guard("list", prefix || "keys", async (s3) => {
      const found: StorageEntry[] = [];
      for await (const page of this.#pages(s3, within, null)) {
        for (const { Key, Size } of page.Contents ?? []) {
          const key = Key!.slice(this.#root.length);
          // Other programs' keys, such as the empty ones that consoles make for folders, are none of ours.
          if (key.split("/").every(isKeySegment)) found.push({ key, bytes: Size ?? 0 });
        }
      }
      return found.sort((a, b) => (a.key < b.key ? -1 : 1));
    });
  }

  async folders(prefix: string): Promise<string[]> {
    const within = this.#prefix(prefix);
    return this.#guard("list", prefix || "keys", async (s3) => {
      const names = new Set<string>();
      for await (const page of this.#pages(s3, within, "/"))
        for (const { Prefix } of page.CommonPrefixes ?? []) names.add(Prefix!.slice(within.length, -1));
      for (const { Key } of await this.#uploadsIfAllowed(s3, within)) {
        const [name, rest] = Key.slice(within.length).split("/");
        if (rest !== undefined) names.add(name!);
      }
      return [...names].filter(isKeySegment).sort();
    });
  }

  async stat(key: string): Promise<StorageEntry | null> {
    const target = this.#target(key);
    return this.#guard("look up", key, async (s3) => {
      try {
        return { key, bytes: (await s3.headObject(target)).ContentLength ?? 0 };
      } catch (error) {
        if (isMissing(s3Fault(error))) return null;
        throw error;
      }
    });
  }

  async delete(keys: readonly string[]): Promise<void> {
    const names = keys.map((key) => ({ Key: this.#target(key).Key }));
    for (let at = 0; at < names.length; at += DELETE_MAX) {
      await this.#guard("delete", keys[at]!, async (s3) => {
        const Delete = { Objects: names.slice(at, at + DELETE_MAX), Quiet: true };
        const { Errors = [] } = await s3.deleteObjects({ Bucket: this.#bucket, Delete });
        const failed = Errors.filter(({ Code }) => Code !== "NoSuchKey");
        if (failed.length === 0) return;
        const key = (failed[0]!.Key ?? "").slice(this.#root.length);
        const doing = `Cannot delete ${key} and ${failed.length - 1} other keys under ${this.uri}`;
        throw this.#error(doing, failed[0]);
      });
    }
  }

  /** Nothing to do: a folder is there as long as a key is. */
  async removeFolder(_prefix: string): Promise<void> {}

  /**
   * An upload whose key is there is left alone. A server that died while it made the key may list the upload for ever, and
   * Ceph's then takes the key's bytes with the parts. Once the key is deleted the upload can go.
   */
  async removeUnfinished(prefix: string, choose: (target: string) => boolean): Promise<number> {
    const within = this.#prefix(prefix);
    return this.#guard("delete", prefix, async (s3) => {
      let count = 0;
      for (const { Key, UploadId } of await this.#uploads(s3, within)) {
        const name = Key.slice(within.length);
        if (!isKeySegment(name) || !choose(prefix + name)) continue;
        if ((await this.stat(prefix + name)) !== null) continue;
        if (await this.#abort(s3, { Bucket: this.#bucket, Key }, UploadId)) count++;
      }
      return count;
    });
  }

  #target(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: this.#root + keySegments(key).join("/") };
  }

  #prefix(prefix: string): string {
    return prefix === "" ? this.#root : `${this.#target(prefix.replace(/\/$/, "")).Key}/`;
  }

  #uploadRequests(s3: S3, target: { Bucket: string; Key: string }): UploadRequests<CompletedPart> {
    const mark = randomUUID();
    let mayBeMade = false;
    return {
      put: async (Body) => {
        await s3.putObject({ ...target, Body });
      },
      begin: async () =>
        (await s3.createMultipartUpload({ ...target, Metadata: { [UPLOAD_MARK]: mark } })).UploadId!,
      putPart: async (UploadId, PartNumber, Body, abortSignal) => {
        const part = await s3.uploadPart({ ...target, UploadId, PartNumber, Body }, { abortSignal });
        const { ETag, ChecksumCRC32 } = part;
        return { PartNumber, ETag, ChecksumCRC32 };
      },
      complete: async (UploadId, Parts) => {
        try {
          await this.#complete(s3, { ...target, UploadId }, Parts, mark);
        } catch (error) {
          mayBeMade = isUnsure(s3Fault(error));
          throw error;
        }
      },
      // A server that still makes the key, or has, may lose its bytes with the parts: see removeUnfinished().
      abort: async (UploadId) => {
        if (!mayBeMade) await this.#abort(s3, target, UploadId);
      },
    };
  }

  /** "No such upload" is what a repeated request hears after a success whose answer was lost: the key's mark tells. */
  async #complete(
    s3: S3,
    upload: { Bucket: string; Key: string; UploadId: string },
    Parts: CompletedPart[],
    mark: string,
  ): Promise<void> {
    try {
      await s3.completeMultipartUpload({ ...upload, MultipartUpload: { Parts } });
    } catch (error) {
      const fault = s3Fault(error);
      if (!isUnsure(fault) && fault.code !== "NoSuchUpload") throw error;
      const found = await s3.headObject({ Bucket: upload.Bucket, Key: upload.Key }).catch(() => null);
      if (found?.Metadata?.[UPLOAD_MARK] !== mark) throw error;
    }
  }

  /** False when there is no such upload any more. */
  async #abort(s3: S3, target: { Bucket: string; Key: string }, UploadId: string): Promise<boolean> {
    try {
      await s3.abortMultipartUpload({ ...target, UploadId });
      return true;
    } catch (error) {
      if (isMissing(s3Fault(error)) || s3Fault(error).code === "NoSuchUpload") return false;
      throw error;
    }
  }

  async #putNew(s3: S3, target: { Bucket: string; Key: string }, Body: Uint8Array): Promise<void> {
    await s3.putObject({ ...target, Body, IfNoneMatch: "*" });
  }

  /** A folder that is gone was pruned with what the new key is to name. */
  async #requireFolder(s3: S3, key: string): Promise<void> {
    const Prefix = this.#prefix(key.slice(0, key.lastIndexOf("/") + 1));
    const { KeyCount } = await s3.listObjectsV2({ Bucket: this.#bucket, Prefix, MaxKeys: 1 });
    if (KeyCount === 0)
      throw new GokuError(
        "NOT_FOUND",
        `Cannot create ${key} under ${this.uri}: its folder is gone, check the URI`,
      );
  }

  /** A server that ignores the condition would let one commit silently replace another: nothing is created there. */
  async #requireConditionalWrites(s3: S3): Promise<void> {
    this.#conditional ??= this.#probe(s3);
    try {
      await this.#conditional;
    } catch (error) {
      this.#conditional = null;
      throw error;
    }
  }

  async #probe(s3: S3): Promise<void> {
    const target = { Bucket: this.#bucket, Key: this.#root + PROBE };
    try {
      // The first may make the key; the second finds it there.
      for (let i = 0; i < 2; i++) await this.#putNew(s3, target, new Uint8Array(1));
    } catch (error) {
      const fault = s3Fault(error);
      if (fault.status === 412 || fault.status === 409) return;
      if (!isUnsupported(fault)) throw error;
    }
    throw new GokuError(
      "STORAGE_FAILED",
      `Cannot commit under ${this.uri}: ${endpointName(this.#options.settings)} does not honour If-None-Match, so that one commit could replace another, put checkpoint.uri on a server with conditional writes`,
    );
  }

  async #compare(key: string, bytes: Uint8Array): Promise<"same" | "other" | null> {
    const found = await this.stat(key);
    if (found === null) return null;
    if (found.bytes !== bytes.byteLength) return "other";
    const content = await this.readFile(key, bytes.byteLength);
    return Buffer.from(content).equals(bytes) ? "same" : "other";
  }

  /**
   * The SDK repeats a request until an answer begins; one that breaks off after that is asked for again here.
   * Null: the key ends before the range begins.
   */
  async #download(
    key: string,
    range: string | null,
    place: (answer: GetObjectCommandOutput) => Uint8Array,
  ): Promise<Uint8Array | null> {
    const target = this.#target(key);
    return this.#guard("read", key, async (s3) => {
      for (let tries = 1; ; tries++) {
        try {
          const answer = await s3.getObject(range === null ? target : { ...target, Range: range });
          return await drainBody(answer.Body, () => place(answer));
        } catch (error) {
          const { status } = s3Fault(error);
          if (status === 416) return null;
          if (error instanceof GokuError || status !== null || tries === TRIES_MAX) throw error;
          await pauseBefore(tries);
        }
      }
    });
  }

  async *#pages(s3: S3, Prefix: string, Delimiter: string | null) {
    const base = { Bucket: this.#bucket, Prefix, ...(Delimiter === null ? {} : { Delimiter }) };
    for (let token: string | undefined; ; ) {
      const page = await s3.listObjectsV2(token === undefined ? base : { ...base, ContinuationToken: token });
      yield page;
      token = page.IsTruncated ? page.NextContinuationToken : undefined;
      if (token === undefined) return;
    }
  }

  /** Unfinished uploads; none where the server cannot tell. */
  async #uploads(s3: S3, Prefix: string): Promise<{ Key: string; UploadId: string }[]> {
    const found: { Key: string; UploadId: string }[] = [];
    try {
      for (let marker = {}; ; ) {
        const page = await s3.listMultipartUploads({ Bucket: this.#bucket, Prefix, ...marker });
        for (const { Key, UploadId } of page.Uploads ?? [])
          if (Key?.startsWith(Prefix) && UploadId !== undefined) found.push({ Key, UploadId });
        if (!page.IsTruncated || page.NextKeyMarker === undefined) return found;
        marker = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
      }
    } catch (error) {
      if (isUnsupported(s3Fault(error))) return [];
      throw error;
    }
  }

  /** Those who may only read cannot list uploads, and need not. */
  async #uploadsIfAllowed(s3: S3, prefix: string) {
    try {
      return await this.#uploads(s3, prefix);
    } catch (error) {
      if (s3Fault(error).status === 403) return [];
      throw error;
    }
  }

  async #statOrThrow(key: string): Promise<StorageEntry> {
    const found = await this.stat(key);
    if (found !== null) return found;
    throw new GokuError(
      "NOT_FOUND",
      `Cannot read ${key} under ${this.uri}: there is no such key, check the URI`,
    );
  }

  #refuse(action: string, key: string, what: string): GokuError {
    return new GokuError("STORAGE_FAILED", `Cannot ${action} ${key} under ${this.uri}: ${what}`);
  }

  async #guard<T>(action: string, key: string, work: (s3: S3) => Promise<T>): Promise<T> {
    try {
      return await work(await connectS3(this.#options.settings));
    } catch (error) {
      throw this.#error(`Cannot ${action} ${key} under ${this.uri}`, error);
    }
  }

  #error(doing: string, error: unknown): GokuError {
    return s3Error(doing, error, { bucket: this.#bucket, settings: this.#options.settings });
  }
}
