/**
 * Results of `work` over items in their order, with at most `limit` of them under way or waiting to be taken,
 * so that memory stays bounded however long the list is.
 */
export async function* orderedMap<T, R>(
  items: Iterable<T>,
  limit: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const running: Promise<R>[] = [];
  try {
    for (const item of items) {
      running.push(work(item));
      if (running.length >= limit) yield await running.shift()!;
    }
    while (running.length > 0) yield await running.shift()!;
  } finally {
    // a consumer that stops early, or a failure, must not leave rejections that nobody hears
    await Promise.allSettled(running);
  }
}
