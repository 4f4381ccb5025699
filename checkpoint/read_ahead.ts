/** Asks for the next item while the last one is in use. However it ends, nothing is being made any more when it has. */
export async function* readAhead<T>(items: AsyncGenerator<T, void>): AsyncGenerator<T, void> {
  let next = items.next();
  try {
    for (let item = await next; !item.done; item = await next) {
      next = items.next();
      next.catch(() => {}); // told when its turn comes
      yield item.value;
    }
  } finally {
    await next.catch(() => {});
    await items.return();
  }
}
