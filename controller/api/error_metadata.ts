import { Metadata, status } from "@grpc/grpc-js";
import { ERRORS, toGokuError } from "../../job/errors.js";

/** Metadata key that carries the catalogue's code beside the gRPC status. */
export const ERROR_CODE_METADATA = "goku-error-code";

/** A thrown value as a gRPC error with the catalogue's code in its metadata. */
export function serviceError(error: unknown) {
  const known = toGokuError(error);
  const metadata = new Metadata();
  metadata.set(ERROR_CODE_METADATA, known.code);
  return {
    name: known.name,
    message: known.message,
    details: known.message,
    code: status[ERRORS[known.code].grpc],
    metadata,
  };
}
