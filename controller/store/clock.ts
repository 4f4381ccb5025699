/** Time as the shell sees it; tests hand in a virtual one. */
export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Calls back once, after at least `ms`; returns a cancel function. Does not keep the process alive. */
  after(ms: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
