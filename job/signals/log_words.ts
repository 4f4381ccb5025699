import type { SignalClass, SignalKind } from "./signal_kind.js";

/**
 * Words in the output of ranks and of the programs that they keep. Literal texts alone, no expressions: the time that a line
 * takes is bounded by its length whatever is in it.
 */
export interface LogWord extends SignalKind {
  /** `log.` and this is its kind. */
  name: string;
  /** A line matches when it holds all texts of one of these, in order. */
  any: readonly (readonly string[])[];
  /** The line is nothing but that text. */
  whole?: boolean;
}

type Words = LogWord["any"];

/** Output is anybody's to write, a quarantine is not: words lead to an examination at most. */
function word(name: string, any: Words, kind: Omit<SignalKind, "action"> & { whole?: boolean }): LogWord {
  return { name, any, action: kind.cause === "machine" ? "suspect" : "note", ...kind };
}

function program(name: string, any: Words, meaning: string, cls: SignalClass = "program_error"): LogWord {
  return word(name, any, { class: cls, cause: "program", meaning });
}

function unclear(name: string, any: Words, cls: SignalClass, meaning: string): LogWord {
  return word(name, any, { class: cls, cause: "unclear", meaning });
}

function machine(name: string, any: Words, cls: SignalClass, meaning: string): LogWord {
  return word(name, any, { class: cls, cause: "machine", meaning });
}

/** The first that matches counts: what says more stands before what says less. */
export const LOG_WORDS: readonly LogWord[] = [
  // CUDA, as its runtime words its errors.
  machine(
    "cuda_ecc",
    [["uncorrectable ECC error encountered"]],
    "gpu_fault",
    "a GPU's memory holds an error that it could not correct",
  ),
  machine(
    "cuda_nvlink",
    [["uncorrectable NVLink error"]],
    "gpu_fault",
    "a link between GPUs lost data that it could not recover",
  ),
  machine(
    "cuda_lost",
    [["GPU is lost"], ["has fallen off the bus"]],
    "gpu_fault",
    "a GPU does not answer on its bus",
  ),
  machine(
    "cuda_no_device",
    [["no CUDA-capable device is detected"], ["CUDA error: system not yet initialized"]],
    "gpu_fault",
    "the driver finds no usable GPU, or the fabric manager is not running",
  ),
  unclear(
    "cuda_contained",
    [["Invalid access of peer GPU memory over nvlink or a hardware error"]],
    "gpu_fault",
    "memory of another GPU could not be read",
  ),
  program(
    "cuda_illegal_address",
    [["an illegal memory access was encountered"], ["CUDA error: misaligned address"]],
    "a kernel read or wrote outside its memory",
  ),
  program(
    "cuda_assert",
    [["device-side assert triggered"]],
    "an assertion in a kernel failed, for example an index out of range",
  ),
  program(
    "cuda_launch_timeout",
    [["the launch timed out and was terminated"]],
    "a kernel took longer than the driver allows",
  ),
  unclear(
    "cuda_launch_failure",
    [["unspecified launch failure"], ["CUDA error: hardware stack error"]],
    "gpu_fault",
    "a kernel ended by a fault: most often the program's, sometimes the device's; the Xid beside it tells",
  ),
  program(
    "gpu_out_of_memory",
    [["CUDA out of memory"], ["OutOfMemoryError: "], ["CUBLAS_STATUS_ALLOC_FAILED"]],
    "the GPU's memory is used up",
    "gpu_out_of_memory",
  ),
  unclear(
    "cuda_library",
    [["CUBLAS_STATUS_"], ["CUDNN_STATUS_"], ["CUSOLVER_STATUS_"]],
    "gpu_fault",
    "a library of CUDA failed; what came before it tells why",
  ),
  // NCCL, gloo, InfiniBand
  machine(
    "ib_event",
    [
      ["NET/IB", "async event", "port error"],
      ["NET/IB", "async fatal event"],
    ],
    "network_fault",
    "a port of an InfiniBand card went down",
  ),
  unclear(
    "ib_call",
    [["Call to ibv_", " failed"]],
    "network_fault",
    "a verb of InfiniBand failed: here, at the peer, or in between",
  ),
  unclear(
    "ib_completion",
    [
      ["NET/IB", "Got completion", "error"],
      ["NET/IB", "Got completion", "status="],
    ],
    "network_fault",
    "a transfer over InfiniBand failed; error 12 is a peer that did not answer",
  ),
  unclear(
    "peer_closed",
    [
      ["Connection closed by remote peer"],
      ["Connection closed by peer"],
      ["Connection reset by peer"],
      ["remote process exited or there was a network error"],
    ],
    "collective_fault",
    "another rank ended, or the way to it was cut",
  ),
  unclear(
    "watchdog",
    [["Watchdog caught collective operation timeout"], ["Watchdog caught collective timeout"]],
    "collective_fault",
    "a collective did not finish in PyTorch's time: some rank did not come",
  ),
  unclear(
    "nccl_system",
    [["unhandled system error"]],
    "network_fault",
    "NCCL was refused something by the system: sockets, shared memory, a network card",
  ),
  unclear(
    "nccl_cuda",
    [["unhandled cuda error"]],
    "gpu_fault",
    "NCCL met an error of CUDA that came before it",
  ),
  unclear(
    "no_route",
    [["No route to host"], ["Network is unreachable"]],
    "network_fault",
    "another machine cannot be reached",
  ),
  unclear("nccl", [["NCCL WARN"]], "collective_fault", "a warning of NCCL"),
  // Memory and storage of the machine
  program(
    "shared_memory",
    [["out of shared memory"], ["unable to mmap", "shared memory"]],
    "/dev/shm is used up, most often by data loaders",
    "out_of_memory",
  ),
  unclear(
    "bus_error",
    [["Bus error"]],
    "out_of_memory",
    "a page of memory could not be had: /dev/shm is full, or a mapped file was cut or cannot be read",
  ),
  program(
    "out_of_memory",
    [
      ["DefaultCPUAllocator: can't allocate memory"],
      ["Cannot allocate memory"],
      ["std::bad_alloc"],
      ["heap out of memory"],
    ],
    "the machine, or the program's share of it, has no memory left",
    "out_of_memory",
  ),
  word("killed", [["Killed"]], {
    class: "out_of_memory",
    cause: "unclear",
    whole: true,
    meaning: "a process was killed from outside, most often by the kernel for memory",
  }),
  unclear(
    "no_space",
    [["No space left on device"], ["Disk quota exceeded"]],
    "storage_fault",
    "a disk, a quota or a tmpfs is full",
  ),
  unclear(
    "storage",
    [
      ["Input/output error"],
      ["Stale file handle"],
      ["Read-only file system"],
      ["Transport endpoint is not connected"],
    ],
    "storage_fault",
    "a file system, or what is behind it, fails",
  ),
  // Data
  program(
    "data",
    [
      ["UnidentifiedImageError"],
      ["image file is truncated"],
      ["moov atom not found"],
      ["Invalid data found when processing input"],
      ["while decompressing data"],
      ["UnicodeDecodeError"],
    ],
    "a sample cannot be decoded",
    "data_fault",
  ),
  // The program
  program(
    "crash",
    [
      ["Segmentation fault"],
      ["double free or corruption"],
      ["free(): invalid "],
      ["malloc(): "],
      ["stack smashing detected"],
    ],
    "native code of the program damaged its memory",
  ),
  program(
    "missing",
    [
      ["ModuleNotFoundError: "],
      ["ImportError: "],
      ["error while loading shared libraries"],
      [": command not found"],
      ["SyntaxError: "],
    ],
    "a module, a library or a program is missing or cannot be read",
  ),
];

/** The last line of a Python traceback that none of the words above knows. */
export const PYTHON_ERROR: LogWord = program("python_error", [], "an error that the program did not handle");
