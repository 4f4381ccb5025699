/** What checkpoint.uri may be; error texts name both kinds. */
export const CHECKPOINT_URI_WANTED = "file://PATH or s3://BUCKET/PREFIX";

const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

/** Nothing that a URL would have to quote, and no dot in front: such names are storage's own. */
const SEGMENT = /^[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]{0,199}$/;

export interface S3Place {
  bucket: string;
  /** Parts joined by "/", without one at either end; "" for the whole bucket. */
  prefix: string;
}

/** Bucket and prefix of an s3:// URI; null where it is none, or names no bucket or prefix that can be used. */
export function parseS3Uri(uri: string): S3Place | null {
  const match = /^s3:\/\/([^/]+)(\/.*)?$/.exec(uri);
  if (match === null || !BUCKET.test(match[1]!)) return null;
  const prefix = (match[2] ?? "").replace(/^\/|\/+$/g, "");
  const valid = prefix === "" || prefix.split("/").every((segment) => SEGMENT.test(segment));
  return valid && prefix.length <= 512 ? { bucket: match[1]!, prefix } : null;
}

/** Whether a job may write its checkpoints there: a file:// or s3:// URI. */
export function isCheckpointUri(uri: string): boolean {
  return /^file:\/\/./.test(uri) || parseS3Uri(uri) !== null;
}
