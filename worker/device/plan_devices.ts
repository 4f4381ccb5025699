/** A rank process that gets a place; `device`: the one it has begun to use, which it keeps; null: none yet. */
export interface PlacedProcess {
  id: number;
  device: number | null;
}

/**
 * Which device of the node each process computes on: those without one get, in turn, the one that the fewest use. With as many slots as
 * devices every rank has one to itself; with more, several share one. Pure.
 */
export function planDevices(processes: readonly PlacedProcess[], count: number): Map<number, number> {
  const users = new Array<number>(count).fill(0);
  const planned = new Map<number, number>();
  for (const { id, device } of processes) {
    if (device === null) continue;
    users[device] = (users[device] ?? 0) + 1;
    planned.set(id, device);
  }
  for (const { id, device } of processes) {
    if (device !== null) continue;
    const least = users.indexOf(Math.min(...users));
    users[least]! += 1;
    planned.set(id, least);
  }
  return planned;
}
