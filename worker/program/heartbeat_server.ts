import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Beat, readBeat } from "./read_beat.js";

/** A heartbeat is a line; more than this is none. */
const BODY_BYTES_MAX = 65_536;
const WANTED = 'want an empty body or JSON such as {"step": 12, "loss": 1.2}';

/** Takes heartbeats by POST, on loopback only; the address holds a secret, since others may use the machine. */
export class HeartbeatServer {
  private readonly onBeat: (beat: Beat) => void;
  private readonly path = `/${randomUUID()}`;
  private readonly server: Server;

  constructor(onBeat: (beat: Beat) => void) {
    this.onBeat = onBeat;
    this.server = createServer((request, response) => this.serve(request, response));
    this.server.unref(); // no reason for this process to live on
  }

  /** Resolves with the address to post to. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", reject);
      this.server.listen(0, "127.0.0.1", resolve);
    });
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}${this.path}`;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  private serve(request: IncomingMessage, response: ServerResponse): void {
    const answer = (status: number, text = "") => response.writeHead(status).end(text);
    if (request.url !== this.path) {
      answer(404);
      return;
    }
    if (request.method !== "POST" && request.method !== "PUT") {
      answer(405, `Cannot take a heartbeat by ${request.method}: ${WANTED} by POST\n`);
      return;
    }
    let text = "";
    request.setEncoding("utf8");
    request.on("error", () => {}); // the program has gone in the middle of it
    request.on("data", (chunk: string) => {
      if (text.length <= BODY_BYTES_MAX) text += chunk;
    });
    request.on("end", () => {
      const beat = text.length > BODY_BYTES_MAX ? null : readBeat(text);
      if (beat === null) {
        answer(400, `Cannot take a heartbeat: found ${JSON.stringify(text.slice(0, 60))}, ${WANTED}\n`);
        return;
      }
      this.onBeat(beat);
      answer(204);
    });
  }
}
