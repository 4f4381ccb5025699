import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { connectS3 } from "../../checkpoint/storage/s3_client.js";
import { CEPH_SKIP, CephCluster } from "./ceph.js";
import { MemoryS3 } from "./memory_s3.js";
import { testSettings } from "./s3_settings.js";

export interface S3Server {
  endpoint: string;
  bucket: string;
  stop(): Promise<void>;
}

export interface S3ServerKind {
  name: string;
  /** Why it cannot run here. */
  skip: string | false;
  start(): Promise<S3Server>;
}

const hasMoto =
  spawnSync("python3", ["-c", "import moto.server, flask, flask_cors"], { stdio: "ignore" }).status === 0;

/** Our double, and the servers of others that it is held against, where they can be run. */
export const S3_SERVERS: S3ServerKind[] = [
  { name: "S3 in memory", skip: false, start: () => MemoryS3.start() },
  { name: "moto's S3 server", skip: hasMoto ? false : "python3 has no moto[server]", start: startMoto },
  { name: "Ceph's radosgw", skip: CEPH_SKIP, start: () => CephCluster.start() },
];

async function startMoto(): Promise<S3Server> {
  const server = spawn("python3", ["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = once(server, "exit");
  process.once("exit", () => server.kill());
  const endpoint = await new Promise<string>((resolve, reject) => {
    let text = "";
    const look = (chunk: Buffer) => {
      text += chunk.toString();
      const found = /Running on (http:\/\/127\.0\.0\.1:\d+)/.exec(text);
      if (found !== null) resolve(found[1]!);
    };
    // It writes a line for every request: read on, or the pipe fills.
    server.stdout.on("data", look);
    server.stderr.on("data", look);
    server.on("exit", () => reject(new Error(`moto ended: ${text}`)));
  });
  const bucket = "runs";
  const s3 = await connectS3(testSettings(endpoint));
  await s3.createBucket({ Bucket: bucket });
  return {
    endpoint,
    bucket,
    stop: async () => {
      server.kill();
      await ended;
    },
  };
}
