/**
 * Where a rank tells what it is doing, asked from outside while it hangs: the contract between an agent and the rank
 * processes that it starts. The agent names the first file in the rank's environment; what lies in them it makes anew
 * for each question.
 */
export const STACK_FILE_VARIABLE = "GOKU_STACK_FILE";

export interface StackFiles {
  /** Frames of all threads, appended on SIGUSR2; its last line is "end" (native/stack_dump.h). */
  native: string;
  /** The agent makes this one to ask for the JavaScript stack. */
  asked: string;
  /** JavaScript frames of the main thread, innermost first; there once the main thread has run JavaScript. */
  javaScript: string;
}

export function stackFiles(path: string): StackFiles {
  return { native: path, asked: `${path}.asked`, javaScript: `${path}.js` };
}
