import { GokuError } from "../../job/errors.js";

/** Errors of a file that will be there tomorrow, too; any other may pass. */
const LASTING = new Set(["ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG"]);

/**
 * Why a file cannot be used, where that says something about the file. What says something about the storage or the machine
 * (EIO, ESTALE, EMFILE, ENOMEM, ...) must not condemn the sample: it is thrown, so that the read is tried again.
 * @throws GokuError STORAGE_FAILED
 */
export function fileVerdict(path: string, error: unknown): string {
  if (error instanceof GokuError) throw error;
  const { code, message } = error as NodeJS.ErrnoException;
  if (code !== undefined && /^E[A-Z]+$/.test(code) && !LASTING.has(code))
    throw new GokuError("STORAGE_FAILED", `Cannot read ${path}: ${message}`, { cause: error });
  return message.split("\n")[0]!;
}
