import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { connectS3, type S3Settings } from "../../checkpoint/storage/s3_client.js";
import { MemoryS3 } from "./memory_s3.js";

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

// The SDK's own way to credentials; the servers take any.
process.env.AWS_ACCESS_KEY_ID = "test-key-id";
process.env.AWS_SECRET_ACCESS_KEY = "test-secret";

export function testSettings(endpoint: string, more: Partial<S3Settings> = {}): S3Settings {
  return { endpoint, region: "us-east-1", connectMs: 5_000, idleMs: 20_000, attemptsMax: 4, ...more };
}

const hasMoto =
  spawnSync("python3", ["-c", "import moto.server, flask, flask_cors"], { stdio: "ignore" }).status === 0;

/** Our double, and a server that others wrote, where Python has it: the double is held against it. */
export const S3_SERVERS: S3ServerKind[] = [
  { name: "S3 in memory", skip: false, start: () => MemoryS3.start() },
  { name: "moto's S3 server", skip: hasMoto ? false : "python3 has no moto[server]", start: startMoto },
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
