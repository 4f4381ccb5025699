import type { IncomingHttpHeaders } from "node:http";
import type { FastifyReply } from "fastify";
import { GokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";
import { NotLeaderError } from "./not_leader_error.js";
import type { App } from "./rest_app.js";

/** One file of the web page, as it is sent. */
export interface PageFile {
  type: string;
  body: Buffer;
  gzipped: Buffer;
  /** Of its content. */
  etag: string;
  /** Its name changes with its content: it may be kept for ever. */
  isNamedByContent: boolean;
}
/** By path, `/` among them; empty where the page was not built. */
export type PageFiles = ReadonlyMap<string, PageFile>;

/**
 * The page needs nothing from elsewhere and runs no script but its own; nobody may show it in a frame. Pictures and clips are
 * fetched with the token, and shown from memory (blob:).
 */
export const PAGE_HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** The files hold no secret and are open to anybody, so that he can sign in; what they ask for then needs a role. */
export function addPageRoutes(app: App, api: ControllerApi, files: PageFiles): void {
  const config = { permission: "anybody" } as const;
  const schema = { hide: true };
  app.get("/", { schema, config }, (request, reply) => {
    leadToLeader(api);
    return send(files, "/", request.headers, reply);
  });
  app.get("/assets/:file", { schema, config }, (request, reply) =>
    send(files, request.url.split("?")[0]!, request.headers, reply),
  );
}

/** The page of a standby would be told nothing. Where no leader is known, it is shown and tries again by itself. */
function leadToLeader(api: ControllerApi): void {
  try {
    api.requireKnowledge();
  } catch (error) {
    if (error instanceof NotLeaderError && error.leader !== null) throw error;
  }
}

function send(
  files: PageFiles,
  path: string,
  headers: IncomingHttpHeaders,
  reply: FastifyReply,
): FastifyReply {
  const file = files.get(path);
  if (file === undefined) {
    const why = files.size === 0 ? "the web page was not built, run scripts/build.sh" : "no such file";
    throw new GokuError("NOT_FOUND", `Cannot show ${path}: ${why}`);
  }
  const cached = file.isNamedByContent ? "public, max-age=31536000, immutable" : "no-cache";
  void reply.headers({ ...PAGE_HEADERS, etag: file.etag, "cache-control": cached, vary: "accept-encoding" });
  if (headers["if-none-match"] === file.etag) return reply.code(304).send();
  const isGzip = /\bgzip\b/.test(String(headers["accept-encoding"] ?? ""));
  if (isGzip) void reply.header("content-encoding", "gzip");
  return reply.type(file.type).send(isGzip ? file.gzipped : file.body);
}
