import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type S3Operation =
  | "put"
  | "get"
  | "head"
  | "list"
  | "deleteMany"
  | "begin"
  | "part"
  | "complete"
  | "abort"
  | "uploads";

/**
 * What a fault makes of one request:
 * - `answer`: that error instead of carrying it out; `answerAfter`: carried out, and then that error;
 * - `drop`: the connection closes before anything happened; `dropAfter`: carried out, and no answer;
 * - `silent`: the connection stays open and nothing comes; `silentAfter`: the same, carried out;
 * - `cut`: half of the body, then the connection closes.
 */
export type S3Failure =
  | { kind: "answer" | "answerAfter"; status: number; code: string }
  | { kind: "drop" | "dropAfter" | "silent" | "silentAfter" | "cut" };

interface Answer {
  status: number;
  headers?: Record<string, string>;
  body?: string | Uint8Array;
}
interface Stored {
  bytes: Buffer;
  metadata: Record<string, string>;
}
interface Upload extends Stored {
  key: string;
  parts: Map<number, Buffer>;
  made: Stored | null;
}
interface Request {
  operation: S3Operation;
  key: string;
  query: URLSearchParams;
  headers: IncomingMessage["headers"];
  body: Buffer;
}

const PART_BYTES_MIN = 5 << 20;

/**
 * One bucket in memory behind HTTP, with S3's own rules where storage depends on them: parts of at least 5 MiB, conditional
 * writes, abort. Tests make requests fail, each before or after it took effect; what a real server does in between cannot
 * be had from one on demand. `test/conformance/storage` holds it against a server that others wrote.
 */
export class MemoryS3 {
  readonly bucket = "runs";
  readonly objects = new Map<string, Stored>();
  readonly uploads = new Map<string, Upload>();
  /** Every request that came, in order: "put a/b". */
  readonly log: string[] = [];
  /** Whether `If-None-Match: *` of a PUT is honoured, ignored, or refused as not implemented. */
  conditionalWrites: "honoured" | "ignored" | "refused" = "honoured";
  /** As at Ceph's gateway that died while it completed: uploads stay listed, and to abort one takes the bytes of its key. */
  uploadsOutlive = false;
  /** Keys that the server will not delete. */
  readonly locked = new Set<string>();
  /** Keys in one page of a listing. */
  pageKeys = 1000;
  readonly #failures: { operation: S3Operation; key: string | null; failure: S3Failure; times: number }[] =
    [];
  readonly #server: Server;
  #uploadCount = 0;
  #death: { requests: number; kind: "drop" | "dropAfter" } | null = null;

  private constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  static async start(address = "127.0.0.1"): Promise<MemoryS3> {
    const made = new MemoryS3();
    await new Promise<void>((resolve) => made.#server.listen(0, address, resolve));
    return made;
  }

  get endpoint(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `http://${address}:${port}`;
  }

  /** The next `times` requests of that kind (and key, unless null) fail. */
  fail(operation: S3Operation, failure: S3Failure, { times = 1, key = null as string | null } = {}): void {
    this.#failures.push({ operation, key, failure, times });
  }

  /** So many more requests are answered; from then on every one fails, until `revive`. */
  dieAfter(requests: number, kind: "drop" | "dropAfter"): void {
    this.#death = { requests, kind };
  }

  revive(): void {
    this.#death = null;
  }

  forgetFailures(): void {
    this.#failures.length = 0;
  }

  count(operation: S3Operation): number {
    return this.log.filter((line) => line.startsWith(`${operation} `)).length;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of incoming) chunks.push(chunk as Buffer);
    } catch {
      return; // The client went away in the middle of its request.
    }
    const url = new URL(incoming.url!, "http://localhost");
    const [, bucket, ...rest] = decodeURIComponent(url.pathname).split("/");
    const key = rest.join("/");
    const operation = operationOf(incoming.method!, key, url.searchParams);
    this.log.push(`${operation} ${key}`);
    const request = {
      operation,
      key,
      query: url.searchParams,
      headers: incoming.headers,
      body: Buffer.concat(chunks),
    };
    const dead = this.#death !== null && --this.#death.requests < 0 ? this.#death : null;
    const failure: S3Failure | null = dead ?? this.#takeFailure(request);
    if (failure?.kind === "drop") return void incoming.socket.destroy();
    if (failure?.kind === "silent") return;
    const answer =
      failure?.kind === "answer"
        ? errorAnswer(failure.status, failure.code)
        : bucket === this.bucket
          ? this.#carryOut(request)
          : errorAnswer(404, "NoSuchBucket");
    if (failure?.kind === "dropAfter") return void incoming.socket.destroy();
    if (failure?.kind === "silentAfter") return;
    this.#send(
      response,
      operation,
      failure?.kind === "answerAfter" ? errorAnswer(failure.status, failure.code) : answer,
      failure?.kind === "cut",
    );
  }

  #send(response: ServerResponse, operation: S3Operation, answer: Answer, cut: boolean): void {
    const body = Buffer.from(answer.body ?? "");
    response.writeHead(answer.status, {
      "content-length": String(operation === "head" ? (answer.headers?.size ?? 0) : body.byteLength),
      ...answer.headers,
    });
    if (cut)
      return void response.write(body.subarray(0, body.byteLength >> 1), () => response.socket?.destroy());
    response.end(operation === "head" ? undefined : body);
  }

  #takeFailure({ operation, key }: Request): S3Failure | null {
    const found = this.#failures.find(
      (each) => each.operation === operation && each.times > 0 && (each.key === null || each.key === key),
    );
    if (found === undefined) return null;
    found.times--;
    return found.failure;
  }

  #carryOut(request: Request): Answer {
    const { key, query, headers, body } = request;
    assert.ok(!headers["content-encoding"]?.includes("aws-chunked"), "bodies come plain");
    switch (request.operation) {
      case "put":
        return this.#put(request);
      case "get":
        return this.#get(request);
      case "head": {
        const found = this.objects.get(key);
        if (found === undefined) return { status: 404 };
        return { status: 200, headers: { size: String(found.bytes.byteLength), ...found.metadata } };
      }
      case "list":
        return this.#list(query);
      case "deleteMany":
        return this.#delete(tags(body.toString(), "Key"));
      case "begin": {
        const id = `upload-${String(++this.#uploadCount).padStart(6, "0")}`;
        this.uploads.set(id, {
          key,
          bytes: body,
          metadata: metadataOf(headers),
          parts: new Map(),
          made: null,
        });
        return xml(
          `<InitiateMultipartUploadResult><UploadId>${id}</UploadId></InitiateMultipartUploadResult>`,
        );
      }
      case "uploads":
        return this.#listUploads(query);
      default:
        return this.#ofUpload(request, query.get("uploadId")!);
    }
  }

  #put({ key, headers, body }: Request): Answer {
    if (headers["if-none-match"] !== undefined && this.conditionalWrites !== "ignored") {
      if (this.conditionalWrites === "refused") return errorAnswer(501, "NotImplemented");
      if (this.objects.has(key)) return errorAnswer(412, "PreconditionFailed");
    }
    this.objects.set(key, { bytes: body, metadata: metadataOf(headers) });
    return { status: 200, headers: { etag: etag(body) } };
  }

  #get({ key, headers }: Request): Answer {
    const found = this.objects.get(key);
    if (found === undefined) return errorAnswer(404, "NoSuchKey");
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "");
    if (range === null) return { status: 200, body: found.bytes };
    const [from, to] = [Number(range[1]), Number(range[2])];
    const { byteLength } = found.bytes;
    if (from >= byteLength) return errorAnswer(416, "InvalidRange");
    const body = found.bytes.subarray(from, to + 1);
    const place = `bytes ${from}-${from + body.byteLength - 1}/${byteLength}`;
    return { status: 206, headers: { "content-range": place }, body };
  }

  #delete(keys: readonly string[]): Answer {
    for (const key of keys) if (!this.locked.has(key)) this.objects.delete(key);
    const refused = keys.filter((key) => this.locked.has(key));
    const errors = refused.map((key) => `<Error><Key>${key}</Key><Code>AccessDenied</Code></Error>`);
    return xml(`<DeleteResult>${errors.join("")}</DeleteResult>`);
  }

  #list(query: URLSearchParams): Answer {
    const prefix = query.get("prefix") ?? "";
    const delimiter = query.get("delimiter");
    const after = query.get("continuation-token") ?? "";
    const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix)).sort();
    const folderOf = (key: string) => {
      const end = delimiter === null ? -1 : key.indexOf(delimiter, prefix.length);
      return end < 0 ? null : key.slice(0, end + 1);
    };
    const entries = [...new Set(keys.map((key) => folderOf(key) ?? key))].filter((name) => name > after);
    const limit = Math.min(this.pageKeys, Number(query.get("max-keys") ?? 1000));
    const page = entries.slice(0, limit);
    const more = entries.length > page.length;
    const items = page.map((name) =>
      this.objects.has(name)
        ? `<Contents><Key>${name}</Key><Size>${this.objects.get(name)!.bytes.byteLength}</Size></Contents>`
        : `<CommonPrefixes><Prefix>${name}</Prefix></CommonPrefixes>`,
    );
    const next = more ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : "";
    return xml(
      `<ListBucketResult><KeyCount>${page.length}</KeyCount><IsTruncated>${more}</IsTruncated>${next}${items.join("")}</ListBucketResult>`,
    );
  }

  #listUploads(query: URLSearchParams): Answer {
    const prefix = query.get("prefix") ?? "";
    const after = query.get("upload-id-marker") ?? "";
    const all = [...this.uploads].filter(([id, { key }]) => key.startsWith(prefix) && id > after);
    const page = all.slice(0, this.pageKeys);
    const items = page.map(([id, { key }]) => `<Upload><Key>${key}</Key><UploadId>${id}</UploadId></Upload>`);
    const [id, last] = page.at(-1) ?? [];
    const next =
      all.length > page.length
        ? `<IsTruncated>true</IsTruncated><NextKeyMarker>${last!.key}</NextKeyMarker><NextUploadIdMarker>${id}</NextUploadIdMarker>`
        : "<IsTruncated>false</IsTruncated>";
    return xml(`<ListMultipartUploadsResult>${next}${items.join("")}</ListMultipartUploadsResult>`);
  }

  #ofUpload({ operation, query, body }: Request, id: string): Answer {
    const upload = this.uploads.get(id);
    if (upload === undefined) return errorAnswer(404, "NoSuchUpload");
    if (operation === "part") {
      upload.parts.set(Number(query.get("partNumber")), body);
      return { status: 200, headers: { etag: etag(body) } };
    }
    if (operation === "abort" || !this.uploadsOutlive) this.uploads.delete(id);
    if (operation === "abort") {
      if (this.objects.get(upload.key) === upload.made) this.objects.delete(upload.key);
      return { status: 204 };
    }
    const numbers = tags(body.toString(), "PartNumber").map(Number);
    const parts = numbers.map((number) => upload.parts.get(number));
    const etags = tags(body.toString(), "ETag").map((tag) => tag.replaceAll("&quot;", '"'));
    if (parts.some((part, i) => part === undefined || etag(part) !== etags[i]))
      return errorAnswer(400, "InvalidPart");
    if (numbers.some((number, i) => number !== i + 1)) return errorAnswer(400, "InvalidPartOrder");
    if (parts.slice(0, -1).some((part) => part!.byteLength < PART_BYTES_MIN))
      return errorAnswer(400, "EntityTooSmall");
    upload.made = { bytes: Buffer.concat(parts as Buffer[]), metadata: upload.metadata };
    this.objects.set(upload.key, upload.made);
    return xml("<CompleteMultipartUploadResult/>");
  }
}

function operationOf(method: string, key: string, query: URLSearchParams): S3Operation {
  if (key === "") return method === "POST" ? "deleteMany" : query.has("uploads") ? "uploads" : "list";
  if (query.has("uploads")) return "begin";
  if (query.has("uploadId")) return method === "PUT" ? "part" : method === "DELETE" ? "abort" : "complete";
  return method === "PUT" ? "put" : method === "HEAD" ? "head" : "get";
}

function metadataOf(headers: IncomingMessage["headers"]): Record<string, string> {
  const entries = Object.entries(headers).filter(([name]) => name.startsWith("x-amz-meta-"));
  return Object.fromEntries(entries.map(([name, value]) => [name, String(value)]));
}

function etag(bytes: Uint8Array): string {
  return `"${createHash("md5").update(bytes).digest("hex")}"`;
}

function tags(text: string, name: string): string[] {
  return [...text.matchAll(new RegExp(`<${name}>([^<]*)</${name}>`, "g"))].map((match) => match[1]!);
}

function xml(body: string): Answer {
  return { status: 200, headers: { "content-type": "application/xml" }, body };
}

function errorAnswer(status: number, code: string): Answer {
  const body = `<Error><Code>${code}</Code><Message>secret-looking text of the server</Message></Error>`;
  return { status, headers: { "content-type": "application/xml" }, body };
}
