/** Who or what first told of a fault. */
export const FAULT_SOURCES = [
  "stall", // the controller compared progress pages
  "signal", // a kernel's log, a counter or words of a rank told of broken hardware
  "restart", // an agent came back as another process
  "fate", // the platform says that the node's process has ended
  "exit", // an agent saw a rank process end
  "failed", // a rank left its work with an error
  "refused", // an agent refused a Prepare
  "leaving", // an agent was asked to end
  "deadline", // a phase of forming took too long
  "lost", // a node cannot be reached
] as const;

export type FaultSource = (typeof FAULT_SOURCES)[number];
