import { Metadata, status } from "@grpc/grpc-js";
import { ERRORS, toGokuError } from "../../job/errors.js";
import { NotLeaderError } from "./not_leader_error.js";

/** Metadata key that carries the catalogue's code beside the gRPC status. */
export const ERROR_CODE_METADATA = "goku-error-code";
/** Beside NOT_LEADER: host:port of the controller that leads, where that is known. */
export const LEADER_METADATA = "goku-leader";

/** A thrown value as a gRPC error with the catalogue's code in its metadata. */
export function serviceError(error: unknown) {
  const known = toGokuError(error);
  const metadata = new Metadata();
  metadata.set(ERROR_CODE_METADATA, known.code);
  if (known instanceof NotLeaderError && known.leader !== null)
    metadata.set(LEADER_METADATA, known.leader.grpc);
  return {
    name: known.name,
    message: known.message,
    details: known.message,
    code: status[ERRORS[known.code].grpc],
    metadata,
  };
}
