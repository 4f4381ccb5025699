import { type AddressInfo, createServer } from "node:net";

/** A port that nobody else is given until it is released. */
export interface ReservedPort {
  port: number;
  /** Resolves when it is free: whoever is to listen there does so soon. Harmless when repeated. */
  release: () => Promise<void>;
}

/** Reserves a free port of an address by listening there; whoever connects too early is refused. */
export async function reservePort(host: string): Promise<ReservedPort> {
  const server = createServer((socket) => socket.destroy());
  server.unref(); // no reason for this process to live on
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return { port, release: () => new Promise((resolve) => server.close(() => resolve())) };
}
