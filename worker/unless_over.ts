import { GokuError } from "../job/errors.js";

/** COMM_ABORTED: the generation is over. */
export function generationOver(): GokuError {
  return new GokuError("COMM_ABORTED", "Cannot wait for storage: the generation is over");
}

/**
 * What storage is asked; where it does not answer, the signal holds nobody back: a call to a file system that is gone may never end.
 * @param error what is thrown then; that the generation is over unless said otherwise
 */
export async function unlessOver<T>(
  signal: AbortSignal,
  asked: Promise<T>,
  error: () => Error = generationOver,
): Promise<T> {
  let onAbort = () => {};
  const over = new Promise<never>((_, reject) => {
    onAbort = () => reject(error());
    signal.addEventListener("abort", onAbort);
    if (signal.aborted) onAbort();
  });
  over.catch(() => {}); // told to whoever waits
  try {
    return await Promise.race([asked, over]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
