import type { S3 } from "@aws-sdk/client-s3";

/** Where the server is and how long it is waited for. */
export interface S3Settings {
  /** URL of any server that speaks S3; null: AWS itself, in `region`. */
  endpoint: string | null;
  /** Null: the SDK looks into the profile. */
  region: string | null;
  /** Until a connection stands. */
  connectMs: number;
  /** Without a byte moving on a connection: a server that died without closing it. */
  idleMs: number;
  /** Of one request, with growing random pauses between them. */
  attemptsMax: number;
}

/** What AWS's own tools read, and limits under which a dead server is noticed within two minutes. */
export function s3Settings(env: NodeJS.ProcessEnv): S3Settings {
  const endpoint = env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL || null;
  const region = env.AWS_REGION || env.AWS_DEFAULT_REGION || null;
  return {
    endpoint,
    // Servers other than AWS have no regions; signatures need some name.
    region: region ?? (endpoint === null ? null : "us-east-1"),
    connectMs: 5_000,
    idleMs: 20_000,
    attemptsMax: 4,
  };
}

const connections = new Map<string, Promise<S3>>();

/**
 * A client for these settings, one for each in a process: a run's storage is opened anew at every look, and connections
 * and credentials are worth keeping. The SDK is loaded here, so that those who never use S3 do not pay for it.
 */
export function connectS3(settings: S3Settings): Promise<S3> {
  const name = JSON.stringify(settings);
  const known = connections.get(name);
  if (known !== undefined) return known;
  const made = connect(settings);
  connections.set(name, made);
  return made;
}

async function connect({ endpoint, region, connectMs, idleMs, attemptsMax }: S3Settings): Promise<S3> {
  // The version is pinned: that later ones will not run on Node 20 is no news to those who run a job.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= "true";
  const sdk = await import("@aws-sdk/client-s3");
  return new sdk.S3({
    ...(region === null ? {} : { region }),
    // Buckets are no host names at a server of one's own.
    ...(endpoint === null ? {} : { endpoint, forcePathStyle: true }),
    maxAttempts: attemptsMax,
    retryMode: "standard",
    requestHandler: { connectionTimeout: connectMs, socketTimeout: idleMs },
    // It would cost a round trip and a new connection for every part.
    expectContinueHeader: false,
  });
}

/** For messages: without user, password and query. */
export function endpointName({ endpoint, region }: S3Settings): string {
  if (endpoint === null) return `AWS S3 in ${region ?? "the profile's region"}`;
  const isUrl = /^https?:\/\//i.test(endpoint) && URL.canParse(endpoint);
  return isUrl ? new URL(endpoint).origin : "an endpoint that is no URL";
}
