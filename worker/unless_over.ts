import { GokuError } from "../job/errors.js";

/** COMM_ABORTED: the generation is over. */
export function generationOver(): GokuError {
  return new GokuError("COMM_ABORTED", "Cannot wait for storage: the generation is over");
}

/** What storage is asked; where it does not answer, the end of the generation holds nobody back: COMM_ABORTED. */
export async function unlessOver<T>(signal: AbortSignal, asked: Promise<T>): Promise<T> {
  let onAbort = () => {};
  const over = new Promise<never>((_, reject) => {
    onAbort = () => reject(generationOver());
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
