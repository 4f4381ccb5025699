import { GokuError } from "../../job/errors.js";

/** RATE_LIMITED, with when to ask again. */
export class RateLimitedError extends GokuError {
  readonly waitMs: number;

  constructor(message: string, waitMs: number) {
    super("RATE_LIMITED", message);
    this.waitMs = waitMs;
  }
}
