import type { DiskFile } from "../../checkpoint/storage/disk.js";

const OPERATIONS = new Set(["write", "read", "sync", "create", "openRead", "rename", "link", "unlink"]);
for (const name of ["makeFolder", "removeFolder", "listFolder", "stat", "syncFolder"]) OPERATIONS.add(name);

/** A disk, or an open file of one, whose every operation first asks `before`: that may wait, or throw what a disk throws. */
export function watched<T extends object>(target: T, before: (operation: string) => Promise<void> | void): T {
  return new Proxy(target, {
    get: (object, key) => {
      const value: unknown = Reflect.get(object, key, object);
      if (typeof value !== "function") return value;
      if (!OPERATIONS.has(String(key))) return value.bind(object);
      return async (...args: unknown[]) => {
        await before(String(key));
        const result: unknown = await value.apply(object, args);
        return key === "create" || key === "openRead" ? watched(result as DiskFile, before) : result;
      };
    },
  });
}

/** A disk as a slow process sees it: its operation number `at` (none: null) begins only when `open` is called. */
export class SlowView {
  count = 0;
  open = () => {};
  #arrive = () => {};
  readonly #opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
  readonly stands = new Promise<void>((resolve) => {
    this.#arrive = resolve;
  });
  readonly #at: number | null;

  constructor(at: number | null) {
    this.#at = at;
  }

  of<T extends object>(target: T): T {
    return watched(target, async () => {
      if (this.count++ !== this.#at) return;
      this.#arrive();
      await this.#opened;
    });
  }
}
