import { randomBytes } from "node:crypto";
import { connect, createServer, type Server, type Socket } from "node:net";
import type { CheckPlace } from "../check_messages.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";

const CHUNK_BYTES = 2 ** 20;
const BYTES_MAX = 2 ** 30;
/** First bytes of the check's own connection: others may reach the port, too, for example whoever scans ports. */
const TOKEN_BYTES = 32;
/** Between the connection and its first bytes at the other end. */
const ARRIVAL_MS = 5_000;

/**
 * The node calls itself at the address that it gives to others: its agent's port must take connections, and bytes sent to
 * a port of this process must come. A wrong address, a firewall or a broken network stack shows here, before peers meet it.
 */
export async function checkLoopback({ host, peerPort, budgetMs }: CheckPlace): Promise<Finding> {
  failpoint("selfcheck.loopback");
  const server = createServer();
  try {
    if (peerPort > 0) (await dial(host, peerPort)).destroy();
    const port = await listen(server, host);
    const { bytes, ms } = await stream(server, { host, port, budgetMs });
    return {
      ok: true,
      value: bytes / ms / 1e6,
      unit: "GB/s",
      detail: `${bytes >> 20} MiB to ${host}:${port}`,
    };
  } catch (error) {
    return { ok: false, value: 0, unit: "GB/s", detail: `${host}: ${(error as Error).message}` };
  } finally {
    server.close();
  }
}

function listen(server: Server, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, host, () => resolve((server.address() as { port: number }).port));
  });
}

function dial(host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port }, () => resolve(socket));
    socket.once("error", reject);
  });
}

/** The connection that begins with the token; those that begin otherwise are closed. Rejects when it does not come. */
function arrivalOf(token: Buffer, server: Server, callers: Set<Socket>): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new Error(`what was sent to it did not come within ${ARRIVAL_MS} ms`));
    const timer = setTimeout(late, ARRIVAL_MS).unref();
    server.on("connection", (socket) => {
      callers.add(socket);
      let head = Buffer.alloc(0);
      const onData = (chunk: Buffer) => {
        head = Buffer.concat([head, chunk]);
        if (head.length < TOKEN_BYTES) return;
        socket.off("data", onData);
        if (!head.equals(token)) {
          socket.destroy();
          return;
        }
        socket.pause(); // until it is counted
        clearTimeout(timer);
        resolve(socket);
      };
      socket.on("data", onData);
      socket.on("error", () => socket.destroy());
    });
  });
}

/** Sends bytes through a connection of its own, as many as the budget allows, and counts them at the other end. */
async function stream(
  server: Server,
  { host, port, budgetMs }: { host: string; port: number; budgetMs: number },
): Promise<{ bytes: number; ms: number }> {
  const token = randomBytes(TOKEN_BYTES);
  const callers = new Set<Socket>();
  const arrival = arrivalOf(token, server, callers);
  arrival.catch(() => {}); // nobody waits for it where the port cannot be reached
  const sender = await dial(host, port);
  try {
    sender.write(token);
    return await count(sender, await arrival, budgetMs);
  } finally {
    sender.destroy();
    for (const caller of callers) caller.destroy();
  }
}

async function count(
  sender: Socket,
  receiver: Socket,
  budgetMs: number,
): Promise<{ bytes: number; ms: number }> {
  const begunMs = performance.now();
  let received = 0;
  const done = new Promise<void>((resolve, reject) => {
    receiver.on("data", (chunk) => {
      received += chunk.length;
    });
    receiver.once("end", resolve);
    receiver.once("error", reject);
    sender.once("error", reject);
    receiver.resume();
  });
  const chunk = Buffer.alloc(CHUNK_BYTES, 0x5a);
  let sent = 0;
  while (sent < BYTES_MAX && (sent === 0 || performance.now() - begunMs < budgetMs)) {
    sent += CHUNK_BYTES;
    // Each turn of the event loop lets the receiver read.
    if (sender.write(chunk)) await new Promise((resolve) => setImmediate(resolve));
    else await Promise.race([done, new Promise((resolve) => sender.once("drain", resolve))]);
  }
  sender.end();
  await done;
  if (received !== sent) throw new Error(`${received} bytes came, ${sent} were sent`);
  return { bytes: received, ms: performance.now() - begunMs };
}
