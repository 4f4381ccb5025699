import { constants, type FileHandle, open } from "node:fs/promises";
import { GokuError, toGokuError } from "../job/errors.js";

/**
 * Opens a file of strangers for reading: never through a link, which may lead anywhere, and never a pipe, which may never
 * answer. Throws NOT_FOUND, ARGUMENT_INVALID (a link, a folder, a pipe), STORAGE_FAILED.
 */
export async function openPlain(path: string): Promise<FileHandle> {
  const refuse = (what: string, cause?: unknown) =>
    new GokuError("ARGUMENT_INVALID", `Cannot read ${path}: ${what}, put the file itself there`, { cause });
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ELOOP") throw refuse("it is a symbolic link", error);
    if (code === "ENOENT" || code === "ENOTDIR") {
      const message = `Cannot read ${path}: there is no such file, check the path`;
      throw new GokuError("NOT_FOUND", message, { cause: error });
    }
    throw toGokuError(error, "STORAGE_FAILED");
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw refuse("it is no plain file");
}

/** The whole of a small file of strangers; CHECKPOINT_CORRUPT, unread, when it is larger than `bytesMax`. */
export async function readPlain(path: string, bytesMax: number): Promise<Buffer> {
  const file = await openPlain(path);
  try {
    const { size } = await file.stat();
    if (size <= bytesMax) return await file.readFile();
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${path}: ${size} bytes, want at most ${bytesMax}`);
  } finally {
    await file.close();
  }
}
