import http from "node:http";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { TLSSocket } from "node:tls";
import { GokuError } from "../../job/errors.js";
import { certificateHolder } from "../../security/certificate_holder.js";
import { hostOf, isLoopback, joinAddress } from "../../security/loopback.js";
import { allows } from "../../security/principal.js";
import { contextOf } from "../../security/server_credentials.js";
import { HANDSHAKE_MS_MAX, readTlsFiles, type TlsMaterial } from "../../security/tls_files.js";
import { Watched } from "../../security/watched.js";
import type { PeerTls } from "../peer_channel.js";

/** Scrapers are few and quick. */
const CONNECTIONS_MAX = 64;
const REQUEST_MS = 10_000;

export interface MetricsServerOptions {
  /** Where to listen, and 0 for any free port. */
  host: string;
  port: number;
  /** At which other machines reach this one, for when `host` stands for all of its addresses. */
  nodeHost: string;
  /** Null: plain text, on loopback only. Else who asks must show a certificate of the cluster. */
  tls: PeerTls | null;
  metrics: { contentType: string; render(): Promise<string> };
  /** A new certificate cannot be used; the old one is. */
  onBadCertificate: (error: Error) => void;
  /** The server could not take a connection; it listens on. */
  onError: (error: Error) => void;
}

/** `/metrics` of one agent. */
export class MetricsServer {
  private readonly options: MetricsServerOptions;
  private readonly server: http.Server | https.Server;
  private readonly certificate: Watched<TlsMaterial> | null;

  /** Throws ARGUMENT_INVALID where the certificate cannot be used. */
  constructor(options: MetricsServerOptions) {
    this.options = options;
    const { tls, onBadCertificate } = options;
    const answer: http.RequestListener = (request, response) => void this.answer(request, response);
    const waits = { headersTimeout: REQUEST_MS, requestTimeout: REQUEST_MS };
    if (tls === null) {
      this.certificate = null;
      this.server = http.createServer(waits, answer);
    } else {
      const onChange = (material: TlsMaterial) => server.setSecureContext(contextOf(material));
      const watched = new Watched([tls.cert, tls.key, tls.ca], () => readTlsFiles(tls), {
        onChange,
        onFailed: onBadCertificate,
      });
      const asks = { requestCert: true, rejectUnauthorized: true, handshakeTimeout: HANDSHAKE_MS_MAX };
      const server = https.createServer({ ...waits, ...contextOf(watched.value), ...asks }, answer);
      this.certificate = watched;
      this.server = server;
    }
    this.server.maxConnections = CONNECTIONS_MAX;
  }

  /** Listens, and returns the URL at which others read. Throws PORT_IN_USE. */
  async start(): Promise<string> {
    const { host, port, nodeHost, tls, onError } = this.options;
    await new Promise<void>((resolve, reject) => {
      const onRefused = (cause: Error) => {
        const what = `Cannot listen for metrics on ${joinAddress(host, port)}: ${cause.message}`;
        const todo = "stop what listens there or choose another --metrics-host and --metrics-port";
        reject(new GokuError("PORT_IN_USE", `${what}; ${todo}`, { cause }));
      };
      this.server.once("error", onRefused);
      this.server.listen(port, host, () => {
        this.server.off("error", onRefused).on("error", onError);
        resolve();
      });
    });
    const reached = host === "0.0.0.0" || host === "::" ? nodeHost : host;
    const bound = (this.server.address() as AddressInfo).port;
    return `${tls === null ? "http" : "https"}://${joinAddress(reached, bound)}/metrics`;
  }

  close(): void {
    this.certificate?.close();
    this.server.close();
    this.server.closeAllConnections();
  }

  private async answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const end = (status: number, text: string) => {
      response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(text);
    };
    const refusal = this.refusal(request);
    if (refusal !== null) end(403, `Cannot show metrics: ${refusal}\n`);
    else if (request.method !== "GET" || request.url?.split("?")[0] !== "/metrics")
      end(404, "want GET /metrics\n");
    else {
      const { metrics } = this.options;
      try {
        const text = await metrics.render();
        response.writeHead(200, { "content-type": metrics.contentType }).end(text);
      } catch (error) {
        end(500, `Cannot show metrics: ${(error as Error).message}\n`);
      }
    }
  }

  /** Why this caller gets nothing; null: he may look. */
  private refusal({ socket, headers }: http.IncomingMessage): string | null {
    // A browser on this machine asks on behalf of any page that is open in it, under the page's own name.
    if (headers.origin !== undefined) return `asked by a page of ${JSON.stringify(headers.origin)}`;
    if (!(socket instanceof TLSSocket)) {
      const host = hostOf(headers.host ?? "");
      return isLoopback(host) ? null : `asked for host ${JSON.stringify(host)}, want 127.0.0.1 or localhost`;
    }
    const holder = certificateHolder(socket.getPeerCertificate());
    const mayLook = holder !== null && holder.role !== null && allows(holder.role, "read");
    return mayLook ? null : "the caller's certificate has no role that may look, want O=goku:read";
  }
}
