import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

interface Pair {
  client: Socket;
  server: Socket;
  /** HTTP/2 DATA frames that the server has sent, and what of a frame is still to come. */
  frames: number;
  pending: Buffer;
}

/** A network between a client and one server on loopback, which tests break in the ways that networks do. */
export class TcpProxy {
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #target: number;
  #held = false;
  #answersHeld = false;
  /** Connections are cut right behind their first message from the server, so often from now on. */
  cutsAfterFirst = 0;

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer({ pauseOnConnect: false }, (client) => this.#accept(client));
  }

  /** @param endpoint host:port on loopback */
  static async start(endpoint: string): Promise<TcpProxy> {
    const proxy = new TcpProxy(Number(endpoint.split(":")[1]));
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get endpoint(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** A network that swallows everything: connections stay open, and new ones seem to open. False: what waits goes on. */
  hold(isSo: boolean): void {
    this.#held = isSo;
    for (const pair of this.#pairs) this.#flow(pair);
  }

  /** Swallows what the server says, and nothing else. */
  holdAnswers(isSo: boolean): void {
    this.#answersHeld = isSo;
    for (const pair of this.#pairs) this.#flow(pair);
  }

  /** From now on another server is at its end. */
  divert(endpoint: string): void {
    this.#target = Number(endpoint.split(":")[1]);
    this.cut();
  }

  /** Ends all connections. */
  cut(): void {
    for (const { client, server } of this.#pairs) {
      client.destroy();
      server.destroy();
    }
  }

  async close(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.cut();
    await closed;
  }

  #accept(client: Socket): void {
    const server = connect(this.#target, "127.0.0.1");
    const pair: Pair = { client, server, frames: 0, pending: Buffer.alloc(0) };
    this.#pairs.add(pair);
    client.on("data", (chunk) => server.write(chunk));
    server.on("data", (chunk) => this.#answer(pair, chunk));
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on("error", () => other.destroy());
      one.on("close", () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
    this.#flow(pair);
  }

  #flow({ client, server }: Pair): void {
    if (this.#held) client.pause();
    else client.resume();
    if (this.#held || this.#answersHeld) server.pause();
    else server.resume();
  }

  #answer(pair: Pair, chunk: Buffer): void {
    if (this.cutsAfterFirst === 0 || pair.frames > 0) {
      pair.client.write(chunk);
      return;
    }
    // Frame by frame: 9 bytes of head, of them 3 for the length and 1 for the type; type 0 carries messages.
    pair.pending = Buffer.concat([pair.pending, chunk]);
    while (pair.pending.length >= 9) {
      const end = 9 + pair.pending.readUIntBE(0, 3);
      if (pair.pending.length < end) return;
      const isMessage = pair.pending[3] === 0;
      const frame = pair.pending.subarray(0, end);
      pair.pending = pair.pending.subarray(end);
      if (!isMessage) {
        pair.client.write(frame);
        continue;
      }
      pair.frames += 1;
      this.cutsAfterFirst -= 1;
      pair.server.destroy();
      pair.client.end(frame);
      return;
    }
  }
}
