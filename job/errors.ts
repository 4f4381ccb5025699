/**
 * The one catalogue of errors. `number` is stable (it stands in shared memory), `exit` is the exit code of gokuctl,
 * `grpc` the status a service answers with. docs/errors.md is kept equal to this by a test.
 */
export const ERRORS = {
  // user
  JOB_INVALID: {
    number: 1,
    grpc: "INVALID_ARGUMENT",
    exit: 2,
    retriable: false,
    meaning: "The job file has an unknown key or a wrong value",
  },
  LAYOUT_INVALID: {
    number: 2,
    grpc: "INVALID_ARGUMENT",
    exit: 2,
    retriable: false,
    meaning: "The layout does not multiply to the ranks at hand",
  },
  ARGUMENT_INVALID: {
    number: 3,
    grpc: "INVALID_ARGUMENT",
    exit: 2,
    retriable: false,
    meaning: "A command-line or request argument is wrong",
  },
  NOT_FOUND: {
    number: 4,
    grpc: "NOT_FOUND",
    exit: 3,
    retriable: false,
    meaning: "The named job, node, checkpoint or file does not exist",
  },
  CONFLICT: {
    number: 5,
    grpc: "ALREADY_EXISTS",
    exit: 4,
    retriable: false,
    meaning: "Another thing of that name or place exists",
  },
  DATA_EMPTY: {
    number: 6,
    grpc: "FAILED_PRECONDITION",
    exit: 5,
    retriable: false,
    meaning: "No readable sample was found in the data set",
  },
  DATA_CHANGED: {
    number: 7,
    grpc: "FAILED_PRECONDITION",
    exit: 5,
    retriable: false,
    meaning: "The data set is not the one the checkpoint was trained on",
  },
  CHECKPOINT_MISMATCH: {
    number: 8,
    grpc: "FAILED_PRECONDITION",
    exit: 6,
    retriable: false,
    meaning: "The checkpoint belongs to another model or job",
  },
  CHECKPOINT_CORRUPT: {
    number: 9,
    grpc: "DATA_LOSS",
    exit: 7,
    retriable: false,
    meaning: "Bytes of a checkpoint differ from their digest, or are missing",
  },
  PORT_IN_USE: {
    number: 10,
    grpc: "FAILED_PRECONDITION",
    exit: 8,
    retriable: false,
    meaning: "Another process listens on that port",
  },
  STORE_LOCKED: {
    number: 11,
    grpc: "FAILED_PRECONDITION",
    exit: 9,
    retriable: false,
    meaning: "Another controller holds the store",
  },
  DATA_UNREADABLE: {
    number: 12,
    grpc: "FAILED_PRECONDITION",
    exit: 5,
    retriable: false,
    meaning: "More samples cannot be read than a run may leave out, or none of a step",
  },
  MEMORY_SHORT: {
    number: 13,
    grpc: "FAILED_PRECONDITION",
    exit: 2,
    retriable: false,
    meaning: "The job does not fit the memory it is planned for",
  },
  // environment
  STORAGE_FULL: {
    number: 20,
    grpc: "RESOURCE_EXHAUSTED",
    exit: 20,
    retriable: true,
    meaning: "The target of a write has no space left",
  },
  STORAGE_FAILED: {
    number: 21,
    grpc: "UNAVAILABLE",
    exit: 20,
    retriable: true,
    meaning: "A storage operation failed",
  },
  STORAGE_NOT_SHARED: {
    number: 26,
    grpc: "FAILED_PRECONDITION",
    exit: 20,
    retriable: false,
    meaning: "The folder of a job's checkpoints is not one and the same on all of its nodes",
  },
  CONTROLLER_UNREACHABLE: {
    number: 22,
    grpc: "UNAVAILABLE",
    exit: 21,
    retriable: true,
    meaning: "No controller answers at the address",
  },
  STORE_UNAVAILABLE: {
    number: 23,
    grpc: "UNAVAILABLE",
    exit: 21,
    retriable: true,
    meaning: "The store does not answer, or this controller has lost it",
  },
  NATIVE_MISSING: {
    number: 24,
    grpc: "FAILED_PRECONDITION",
    exit: 22,
    retriable: false,
    meaning: "The native addon is not built, or is of another version",
  },
  DEVICE_MISSING: {
    number: 25,
    grpc: "FAILED_PRECONDITION",
    exit: 22,
    retriable: false,
    meaning: "The job asks for a device that is not there, or whose backend is not built",
  },
  // training
  NATIVE_ARGUMENT: {
    number: 30,
    grpc: "INTERNAL",
    exit: 70,
    retriable: false,
    meaning: "A native call was made with a bad handle, type or size",
  },
  NATIVE_OUT_OF_MEMORY: {
    number: 31,
    grpc: "RESOURCE_EXHAUSTED",
    exit: 31,
    retriable: false,
    meaning: "Memory for a tensor could not be had",
  },
  NATIVE_IO: {
    number: 32,
    grpc: "UNAVAILABLE",
    exit: 20,
    retriable: true,
    meaning: "A shared-memory page could not be mapped",
  },
  NATIVE_DEVICE: {
    number: 29,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "A CUDA device, its driver or a library for it failed or is missing",
  },
  COMM_PEER_DIED: {
    number: 33,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "A rank died while others waited for it, or a connection to one broke",
  },
  COMM_ABORTED: {
    number: 34,
    grpc: "ABORTED",
    exit: 32,
    retriable: true,
    meaning: "The collectives were aborted from outside",
  },
  COMM_TIMEOUT: {
    number: 35,
    grpc: "DEADLINE_EXCEEDED",
    exit: 33,
    retriable: true,
    meaning: "A collective did not finish in its time, or a peer's machine cannot be reached",
  },
  COMM_CHECK_FAILED: {
    number: 36,
    grpc: "DATA_LOSS",
    exit: 32,
    retriable: true,
    meaning: "The first collective returned wrong numbers",
  },
  RANK_DIED: {
    number: 37,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "A rank process ended by itself",
  },
  RANK_STALLED: {
    number: 38,
    grpc: "DEADLINE_EXCEEDED",
    exit: 33,
    retriable: true,
    meaning: "A rank shows no progress",
  },
  NODE_LOST: {
    number: 39,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "An agent has gone and training stopped",
  },
  NO_PROGRESS: {
    number: 40,
    grpc: "ABORTED",
    exit: 34,
    retriable: false,
    meaning: "Recovery was tried as often as allowed and no step was completed",
  },
  SNAPSHOT_MISSING: {
    number: 41,
    grpc: "NOT_FOUND",
    exit: 32,
    retriable: true,
    meaning: "A rank's snapshot of the wanted state is not on this node",
  },
  NODE_PREEMPTED: {
    number: 42,
    grpc: "UNAVAILABLE",
    exit: 35,
    retriable: true,
    meaning: "A node was asked to leave, and no other took its place in time",
  },
  PREVIEW_FAILED: {
    number: 48,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "The process that draws a preview ended by itself; training goes on",
  },
  NODE_OUT_OF_MEMORY: {
    number: 49,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning:
      "A node's processes were killed because they used more memory than its pod may, or than the machine has",
  },
  HARDWARE_FAULT: {
    number: 61,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning:
      "The kernel, the counters or the output of a node tell of broken hardware: its ranks go elsewhere",
  },
  PROGRAM_FAILED: {
    number: 47,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning: "A job's own program ended with an error, by a signal, or could not be started",
  },
  RANK_SLOW: {
    number: 43,
    grpc: "UNAVAILABLE",
    exit: 32,
    retriable: true,
    meaning:
      "A rank needs more time than the others for the same work, and another node was to take its place",
  },
  NOT_FINITE: {
    number: 44,
    grpc: "FAILED_PRECONDITION",
    exit: 36,
    retriable: false,
    meaning: "Losses or gradients were not finite in as many steps in a row as the job allows",
  },
  NUMBERS_SPIKED: {
    number: 28,
    grpc: "FAILED_PRECONDITION",
    exit: 37,
    retriable: false,
    meaning: "A loss or gradient norm left its usual range, and the job stops then, or as often as it allows",
  },
  ROLLED_BACK: {
    number: 27,
    grpc: "ABORTED",
    exit: 32,
    retriable: true,
    meaning:
      "Data or weights made a step's numbers bad: the job goes back some steps and leaves their packs out",
  },
  RANK_CORRUPT: {
    number: 46,
    grpc: "DATA_LOSS",
    exit: 32,
    retriable: true,
    meaning:
      "A rank computed a step to other bits than before or than others do, or its weights changed in memory: its node is examined, replaced or given up",
  },
  NODE_UNHEALTHY: {
    number: 45,
    grpc: "FAILED_PRECONDITION",
    exit: 32,
    retriable: false,
    meaning: "A node failed its self-checks",
  },
  // control
  GENERATION_STALE: {
    number: 50,
    grpc: "FAILED_PRECONDITION",
    exit: 70,
    retriable: false,
    meaning: "The message belongs to an older generation or term",
  },
  NOT_LEADER: {
    number: 51,
    grpc: "UNAVAILABLE",
    exit: 21,
    retriable: true,
    meaning: "This controller does not lead; the answer names who does, where that is known",
  },
  STATE_INVALID: {
    number: 52,
    grpc: "FAILED_PRECONDITION",
    exit: 4,
    retriable: false,
    meaning: "The job is in a phase that does not allow this",
  },
  UNAUTHENTICATED: {
    number: 53,
    grpc: "UNAUTHENTICATED",
    exit: 10,
    retriable: false,
    meaning: "No token or client certificate came, or one that is not known",
  },
  PERMISSION_DENIED: {
    number: 54,
    grpc: "PERMISSION_DENIED",
    exit: 10,
    retriable: false,
    meaning: "The caller is known and has not the role that this needs",
  },
  RATE_LIMITED: {
    number: 55,
    grpc: "RESOURCE_EXHAUSTED",
    exit: 23,
    retriable: true,
    meaning: "The caller asks more often, or holds more streams, than the controller allows",
  },
  INTERNAL: {
    number: 70,
    grpc: "INTERNAL",
    exit: 70,
    retriable: false,
    meaning: "A fault in the product itself",
  },
} as const satisfies Record<
  string,
  { number: number; grpc: string; exit: number; retriable: boolean; meaning: string }
>;
export type ErrorCode = keyof typeof ERRORS;

/** Operation of a COMM_PEER_DIED that says: the memory of another node, which holds the wanted state, cannot be read. */
export const READ_MEMORY = "read_memory";

/**
 * An operating error. Message form: action, colon, current and wanted state, what to do; no full stop:
 * `Cannot form generation 8: 3 ranks alive, need 4`.
 */
export class GokuError extends Error {
  readonly code: ErrorCode;
  /** World rank a collective error names, or null. */
  readonly peer: number | null;
  /** What was being done with that rank, "" where the message says it all. */
  readonly operation: string;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; peer?: number | null; operation?: string } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = "GokuError";
    this.code = code;
    this.peer = options.peer ?? null;
    this.operation = options.operation ?? "";
  }
}

/** Any thrown value as a GokuError: known codes survive, everything else becomes `fallback`. */
export function toGokuError(error: unknown, fallback: ErrorCode = "INTERNAL"): GokuError {
  if (error instanceof GokuError) return error;
  const { code, message, peer, operation } = error as {
    code?: string;
    message?: string;
    peer?: number;
    operation?: string;
  };
  if (code === "ENOSPC" || code === "EDQUOT")
    return new GokuError("STORAGE_FULL", message ?? code, { cause: error });
  const known = typeof code === "string" && Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : fallback;
  const named = { peer: peer ?? null, operation: operation ?? "" };
  return new GokuError(known, message ?? String(error), { cause: error, ...named });
}
