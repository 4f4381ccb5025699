/** Something that happens at a virtual time; cancelled ones are skipped. */
export interface Scheduled {
  readonly atMs: number;
  readonly order: number;
  run: (() => void) | null;
}

/** Virtual time: a heap of things to happen; ties go in the order they were scheduled. */
export class Scheduler {
  nowMs = 0;
  executed = 0;
  /** Promises were settled: what waits for them is done before anything else happens. */
  unsettled = false;
  #order = 0;
  readonly #heap: Scheduled[] = [];

  after(delayMs: number, run: () => void): Scheduled {
    return this.at(this.nowMs + delayMs, run);
  }

  at(atMs: number, run: () => void): Scheduled {
    this.#order += 1;
    const item: Scheduled = { atMs: Math.max(atMs, this.nowMs), order: this.#order, run };
    this.#heap.push(item);
    this.#up(this.#heap.length - 1);
    return item;
  }

  /** Runs the next event; false when there is none. */
  step(): boolean {
    for (;;) {
      const item = this.#pop();
      if (item === undefined) return false;
      const { run } = item;
      if (run === null) continue;
      this.nowMs = item.atMs;
      this.executed += 1;
      item.run = null;
      run();
      return true;
    }
  }

  #pop(): Scheduled | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return undefined;
    if (heap.length > 0) {
      heap[0] = last;
      this.#down(0);
    }
    return first;
  }

  #up(start: number): void {
    const heap = this.#heap;
    let index = start;
    const item = heap[index]!;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!before(item, heap[parent]!)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = item;
  }

  #down(start: number): void {
    const heap = this.#heap;
    let index = start;
    const item = heap[index]!;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
      if (!before(heap[child]!, item)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = item;
  }
}

function before(a: Scheduled, b: Scheduled): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
