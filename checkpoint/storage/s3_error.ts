import { GokuError } from "../../job/errors.js";
import { endpointName, type S3Settings } from "./s3_client.js";

/** Of a bucket or a disk behind it; the names are those of MinIO, Ceph and others, AWS has no such limit. */
const FULL =
  /^(QuotaExceeded|InsufficientStorage|InsufficientCapacity|XMinioStorageFull|XMinioAdminBucketQuotaExceeded|ENOSPC|EDQUOT)$/;
const UNREACHED = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ECONNRESET|EPIPE|ETIMEDOUT)$/;
const DENIED =
  /^(AccessDenied|Forbidden|AllAccessDisabled|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken)$/;
const MISSING = /^(NoSuchKey|NotFound)$/;
const ELSEWHERE = /^(PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException)$/;

/** What is known of a failed request. */
export interface S3Fault {
  /** S3's error code, or Node's: "AccessDenied", "ECONNREFUSED". */
  code: string;
  /** HTTP status; null: no answer came. */
  status: number | null;
  /** How often the request was sent. */
  attempts: number;
}

export function s3Fault(error: unknown): S3Fault {
  const { name, Code, code, $metadata } = error as {
    name?: string;
    Code?: string;
    code?: string;
    $metadata?: { httpStatusCode?: number; attempts?: number };
  };
  const status = $metadata?.httpStatusCode ?? null;
  // The SDK cannot name the error of an answer without a body, such as those to HEAD.
  const named = [code, Code, name].find((each) => each !== undefined && !/^(Error|Unknown.*)$/.test(each));
  return {
    code: named ?? (status === null ? "UnknownError" : `HTTP ${status}`),
    status,
    attempts: $metadata?.attempts ?? 1,
  };
}

/** Whether the request may have been carried out all the same: no answer, or one that says nothing of it. */
export function isAmbiguous({ status, code }: S3Fault): boolean {
  if (status !== null) return status >= 500 && status !== 501 && status !== 507;
  return code === "TimeoutError" || UNREACHED.test(code);
}

/** Whether one of the times that the request was sent may have been carried out, though it failed in the end. */
export function isUnsure(fault: S3Fault): boolean {
  return isAmbiguous(fault) || fault.attempts > 1;
}

export function isMissing({ status, code }: S3Fault): boolean {
  return MISSING.test(code) || (status === 404 && code === "HTTP 404");
}

/** The server does not know the request, or the header in it. */
export function isUnsupported({ status }: S3Fault): boolean {
  return status === 501 || status === 405;
}

/**
 * The catalogue's error for what S3 or the way to it answered. Texts of the server are left out, and so is the SDK's own
 * error: both may quote signatures and key ids.
 * @param doing "Cannot write KEY under URI"
 */
export function s3Error(
  doing: string,
  error: unknown,
  place: { bucket: string; settings: S3Settings },
): GokuError {
  if (error instanceof GokuError) return error;
  const fault = s3Fault(error);
  const cause = new Error(`${fault.code}, HTTP status ${fault.status ?? "none"}, ${fault.attempts} attempts`);
  if (isMissing(fault))
    return new GokuError("NOT_FOUND", `${doing}: there is no such key, check the URI`, { cause });
  if (FULL.test(fault.code) || fault.status === 507) {
    const what = `no space left in bucket ${place.bucket} (${fault.code})`;
    return new GokuError("STORAGE_FULL", `${doing}: ${what}, free some there or lower checkpoint.keep_last`, {
      cause,
    });
  }
  return new GokuError("STORAGE_FAILED", `${doing}: ${explain(fault, place)}`, { cause });
}

function explain(
  { code, status, attempts }: S3Fault,
  { bucket, settings }: { bucket: string; settings: S3Settings },
): string {
  const endpoint = endpointName(settings);
  const answer = status === null || code === `HTTP ${status}` ? code : `${code}, HTTP ${status}`;
  if (code === "CredentialsProviderError")
    return "found no credentials, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role";
  if (code === "ExpiredToken" || code === "TokenRefreshRequired" || code === "RequestTimeTooSkewed")
    return `${endpoint} answered ${answer}, renew the credentials and check this machine's clock`;
  if (code === "NoSuchBucket")
    return `there is no bucket ${bucket} at ${endpoint}, create it or check the URI`;
  if (DENIED.test(code) || status === 401 || status === 403)
    return `${endpoint} does not allow it in bucket ${bucket} (${answer}), check the credentials and their policy`;
  if (ELSEWHERE.test(code) || status === 301)
    return `bucket ${bucket} is in another region (${answer}), set AWS_REGION to it`;
  if (code === "TimeoutError")
    return `${endpoint} was silent for ${settings.idleMs} ms or took no connection for ${settings.connectMs} ms, ${attempts} times, check the server and the network`;
  if (UNREACHED.test(code))
    return `the connection to ${endpoint} failed (${code}), check AWS_ENDPOINT_URL_S3, the server and the network`;
  if (code === "ERR_INVALID_URL" || code === "EndpointError")
    return `found ${endpoint}, set AWS_ENDPOINT_URL_S3 to http://HOST:PORT`;
  // The SDK's error for it has no name of its own; the profile was asked, too.
  if (code === "UnknownError" && settings.region === null) return "found no region, set AWS_REGION";
  if (status !== null && status >= 500)
    return `${endpoint} answered ${answer} ${attempts} times, try again later or look at the server's log`;
  return `${endpoint} answered ${answer} for bucket ${bucket}, look at the server's log`;
}
