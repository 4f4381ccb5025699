import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

/** What a process of a measurement says next; throws when it ends instead. */
export async function nextMessage<T>(child: ChildProcess): Promise<T> {
  const ended = new AbortController();
  const exit = once(child, "exit", { signal: ended.signal }).then(() => {
    throw new Error("Cannot measure: a process ended early");
  });
  try {
    const [message] = (await Promise.race([once(child, "message", { signal: ended.signal }), exit])) as [T];
    return message;
  } finally {
    exit.catch(() => {}); // the wait for the exit is called off
    ended.abort();
  }
}
