import type { S3Settings } from "../../checkpoint/storage/s3_client.js";

export const S3_KEY = { id: "test-key-id", secret: "test-secret" } as const;

// The SDK's own way to credentials.
process.env.AWS_ACCESS_KEY_ID = S3_KEY.id;
process.env.AWS_SECRET_ACCESS_KEY = S3_KEY.secret;

export function testSettings(endpoint: string, more: Partial<S3Settings> = {}): S3Settings {
  return { endpoint, region: "us-east-1", connectMs: 5_000, idleMs: 20_000, attemptsMax: 4, ...more };
}
