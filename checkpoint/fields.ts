import { GokuError } from "../job/errors.js";

/**
 * Reads plain JSON that came from outside, field by field. Every error is CHECKPOINT_CORRUPT and names its source and the
 * path of the field: `Cannot read checkpoint-40/manifest.json: writers[2].bytes is -1, want a whole number`.
 */
export class Fields {
  readonly #value: Record<string, unknown>;
  readonly #source: string;
  readonly #path: string;

  private constructor(value: Record<string, unknown>, source: string, path: string) {
    this.#value = value;
    this.#source = source;
    this.#path = path;
  }

  static of(value: unknown, source: string, path = ""): Fields {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw wrong(source, path || "the file", value, "an object");
    return new Fields(value as Record<string, unknown>, source, path);
  }

  fail(key: string, want: string): never {
    throw wrong(this.#source, this.#at(key), this.#value[key], want);
  }

  /** All of it, unchecked. */
  record(): Readonly<Record<string, unknown>> {
    return this.#value;
  }

  any(key: string): unknown {
    return Object.hasOwn(this.#value, key) ? this.#value[key] : this.fail(key, "a value");
  }

  string(key: string, pattern = /^/): string {
    const value = this.#value[key];
    return typeof value === "string" && pattern.test(value) ? value : this.fail(key, `text like ${pattern}`);
  }

  /** A whole number in [min, max]; max is at most 2^53 - 1. */
  integer(key: string, limits: { min?: number; max?: number } = {}): number {
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = limits;
    const value = this.#value[key];
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max)
      return value;
    return this.fail(key, `a whole number from ${min} to ${max}`);
  }

  /** False: files of an earlier version do not have it. */
  has(key: string): boolean {
    return Object.hasOwn(this.#value, key);
  }

  object(key: string): Fields {
    return Fields.of(this.#value[key], this.#source, this.#at(key));
  }

  objectOrNull(key: string): Fields | null {
    return this.#value[key] === null ? null : this.object(key);
  }

  objects(key: string): Fields[] {
    return this.#array(key).map((item, i) => Fields.of(item, this.#source, `${this.#at(key)}[${i}]`));
  }

  strings(key: string, pattern = /^/): string[] {
    const items = this.#array(key);
    return items.every((item) => typeof item === "string" && pattern.test(item))
      ? (items as string[])
      : this.fail(key, `a list like ${pattern}`);
  }

  integers(key: string): number[] {
    const items = this.#array(key);
    return items.every((item) => Number.isSafeInteger(item) && (item as number) >= 0)
      ? (items as number[])
      : this.fail(key, "a list of whole numbers");
  }

  /** Finite numbers. */
  numbers(key: string): number[] {
    const items = this.#array(key);
    return items.every(Number.isFinite) ? (items as number[]) : this.fail(key, "a list of numbers");
  }

  #array(key: string): unknown[] {
    const value = this.#value[key];
    return Array.isArray(value) ? value : this.fail(key, "a list");
  }

  #at(key: string): string {
    return this.#path === "" ? key : `${this.#path}.${key}`;
  }
}

function wrong(source: string, path: string, found: unknown, want: string): GokuError {
  const text = found === undefined ? "missing" : `${JSON.stringify(found)}`.slice(0, 80);
  return new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: ${path} is ${text}, want ${want}`);
}
