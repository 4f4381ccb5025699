import { randomUUID } from "node:crypto";
import { type FileHandle, open, readFile, rename, stat, unlink, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as delay } from "node:timers/promises";

/** The holder touches its lock this often; a lock left alone for STALE_MS has no living holder. */
const BEAT_MS = 2_000;
const STALE_MS = 15_000;
const POLL_MS = 100;

/**
 * Lets one of several processes do a piece of work while the others wait for its result.
 * A lock whose holder died is taken over. Two takeovers at once may both do the work: it must end in an atomic rename,
 * so that either result is whole.
 * @param done the finished result, or null while there is none; asked again whenever the lock changes hands
 */
export async function doOnce<T>(
  lockPath: string,
  done: () => Promise<T | null>,
  work: () => Promise<T>,
): Promise<T> {
  for (;;) {
    const lock = await acquire(lockPath);
    if (lock) {
      try {
        return (await done()) ?? (await work());
      } finally {
        await lock.release();
      }
    }
    await delay(POLL_MS);
  }
}

async function acquire(lockPath: string): Promise<{ release: () => Promise<void> } | null> {
  let file: FileHandle;
  try {
    file = await open(lockPath, "wx");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    await removeStale(lockPath);
    return null;
  }
  await file.writeFile(JSON.stringify({ pid: process.pid, host: hostname() }));
  await file.close();
  const beat = setInterval(() => {
    const now = new Date();
    utimes(lockPath, now, now).catch(() => {});
  }, BEAT_MS);
  beat.unref();
  return {
    release: async () => {
      clearInterval(beat);
      await unlink(lockPath).catch(() => {});
    },
  };
}

async function removeStale(lockPath: string): Promise<void> {
  try {
    const [found, text] = await Promise.all([stat(lockPath), readFile(lockPath, "utf8")]);
    const untouchedMs = Date.now() - found.mtimeMs;
    if (untouchedMs < STALE_MS && !holderIsGone(text)) return;
    // moved aside under a name of our own first: of two takers only one moves it
    const aside = `${lockPath}.${randomUUID()}`;
    await rename(lockPath, aside);
    await unlink(aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // released or taken over meanwhile
  }
}

/** Only a holder on this machine can be known to be gone; an unfinished lock file says nothing. */
function holderIsGone(text: string): boolean {
  try {
    const { pid, host } = JSON.parse(text) as { pid: number; host: string };
    if (host !== hostname()) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}
