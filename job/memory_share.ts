/**
 * What one node may take of the memory where its agent runs: all of the machine, or of its container where that has less, in
 * equal parts for the agents that share it. The plan and `recompute: auto` both count with this. Pure.
 */
export function memoryShare(options: {
  machineBytes: number;
  /** Of the container or cgroup; 0: none. */
  limitBytes: number;
  /** That share it, this one included; at least 1. */
  agents: number;
}): number {
  const { machineBytes, limitBytes, agents } = options;
  const whole = limitBytes > 0 ? Math.min(limitBytes, machineBytes) : machineBytes;
  return Math.floor(whole / agents);
}
