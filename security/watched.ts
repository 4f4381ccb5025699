import { statSync } from "node:fs";

/** How old what is in use may be, after a file was replaced. */
const LOOK_MS = 10_000;

/**
 * What is made from files that others replace: certificates by cert-manager, tokens by people. Files are looked at again
 * and again, since a change of the symbolic link that Kubernetes puts a secret behind tells no watcher of the file. What
 * cannot be used (half of a pair is there) leaves the old in use.
 */
export class Watched<T> {
  readonly #files: readonly string[];
  readonly #make: () => T;
  readonly #callbacks: { onChange: (value: T) => void; onFailed: (error: Error) => void };
  readonly #timer: NodeJS.Timeout;
  #seen: string;
  #value: T;

  /** Throws what `make` throws for the first time. */
  constructor(
    files: readonly string[],
    make: () => T,
    callbacks: { onChange: (value: T) => void; onFailed: (error: Error) => void },
  ) {
    this.#files = files;
    this.#make = make;
    this.#callbacks = callbacks;
    this.#seen = marks(files);
    this.#value = make();
    this.#timer = setInterval(() => this.look(), LOOK_MS).unref();
  }

  get value(): T {
    return this.#value;
  }

  /** Also called by a clock. */
  look(): void {
    const now = marks(this.#files);
    if (now === this.#seen) return;
    this.#seen = now;
    try {
      this.#value = this.#make();
    } catch (error) {
      this.#callbacks.onFailed(error as Error);
      return;
    }
    this.#callbacks.onChange(this.#value);
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

/** Differs once one of the files was replaced or written. */
function marks(files: readonly string[]): string {
  return files
    .map((file) => {
      const stat = statSync(file, { throwIfNoEntry: false, bigint: true });
      return stat === undefined ? "" : `${stat.ino} ${stat.mtimeNs} ${stat.size}`;
    })
    .join();
}
