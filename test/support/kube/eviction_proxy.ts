import { once } from "node:events";
import { readFileSync } from "node:fs";
import https from "node:https";
import type { AddressInfo } from "node:net";

/**
 * Stands before an API server of 1.20, which knows evictions as policy/v1beta1 and not yet as policy/v1: those it rewrites, and
 * passes everything else on as it is.
 */
export class EvictionProxy {
  readonly #server: https.Server;
  readonly #to: { port: number; ca: Buffer };

  constructor(to: { port: number; caFile: string; certFile: string; keyFile: string }) {
    this.#to = { port: to.port, ca: readFileSync(to.caFile) };
    const tls = { cert: readFileSync(to.certFile), key: readFileSync(to.keyFile) };
    this.#server = https.createServer(tls, (request, response) => {
      const isEviction = /\/eviction$/.test(request.url!);
      const { "content-length": _length, ...headers } = request.headers;
      const options = { host: "127.0.0.1", ...this.#to, method: request.method!, path: request.url! };
      const passed = https.request(
        { ...options, headers: isEviction ? headers : request.headers },
        (answer) => {
          response.writeHead(answer.statusCode!, answer.headers);
          response.flushHeaders();
          answer.on("error", () => response.destroy());
          answer.pipe(response);
        },
      );
      // The API server has gone: so has this connection.
      passed.on("error", () => response.destroy());
      response.on("close", () => passed.destroy());
      if (!isEviction) request.pipe(passed);
      else
        void textOf(request).then((text) =>
          passed.end(text.replace('"apiVersion":"policy/v1"', '"apiVersion":"policy/v1beta1"')),
        );
    });
  }

  async listen(): Promise<number> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    const closed = once(this.#server.close(), "close");
    this.#server.closeAllConnections();
    await closed;
  }
}

async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
