import { rmSync } from "node:fs";
import path from "node:path";
import { type Logger, pino } from "pino";
import { GokuError } from "../../job/errors.js";
import { isAddress } from "../../job/is_address.js";
import { isFailureDomain, isNodeName } from "../../job/node_name.js";
import { controllerChannel } from "../../security/client_access.js";
import { requireSafeListen } from "../../security/listen_rule.js";
import { Agent, type AgentOptions } from "./agent.js";
import { lockNode } from "./lock_node.js";

export type { AgentOptions } from "./agent.js";

export interface RunningAgent {
  /** Lets the ranks save within the grace, ends them and leaves; `reason`: what asked for it, for example SIGTERM. */
  close(reason: string): Promise<void>;
}

/**
 * Runs the agent of this node in this process until it is closed. Throws ARGUMENT_INVALID for a bad option, CONFLICT when
 * another agent of the node lives on the same state folder.
 */
export async function runAgent(
  options: AgentOptions,
  log: Logger = agentLog(options),
): Promise<RunningAgent> {
  check(options);
  const folder = path.join(options.stateDir, options.node);
  const lock = lockNode(folder, `run an agent of ${options.node}`);
  const agent = new Agent(options, log);
  try {
    await agent.start();
  } catch (error) {
    rmSync(lock, { force: true });
    throw error;
  }
  return {
    close: async (reason) => {
      await agent.close(reason);
      rmSync(lock, { force: true });
    },
  };
}

function agentLog({ node }: AgentOptions): Logger {
  return pino({ level: process.env.GOKU_LOG_LEVEL ?? "info", base: { node } });
}

const ADVICE =
  'give --ca, --cert and --key, as "gokuctl certs init" makes them (docs/security.md), or stay on 127.0.0.1';

function check(options: AgentOptions): void {
  const { node, slots, controllers, host, failureDomain, access, metricsHost, peakTflops } = options;
  const refuse = (what: string) => {
    throw new GokuError("ARGUMENT_INVALID", `Cannot run an agent: ${what}`);
  };
  if (!isNodeName(node)) refuse(`node name ${JSON.stringify(node)}, want letters, digits and ._- in between`);
  if (!Number.isInteger(slots) || slots < 1) refuse(`${slots} slots, want at least 1`);
  if (controllers.length === 0 || !controllers.every(isAddress))
    refuse(`controllers ${JSON.stringify(controllers)}, want host:port, comma-separated, IPv6 in brackets`);
  if (!isFailureDomain(failureDomain))
    refuse(`failure domain ${JSON.stringify(failureDomain)}, want letters, digits and ._/:-`);
  if (host === "") refuse("an empty host, want the address at which other nodes reach this one");
  if (peakTflops !== null && !(peakTflops > 0 && Number.isFinite(peakTflops)))
    refuse(`a peak of ${peakTflops} TFLOP/s, want more than 0`);
  // What is wrong with the files is said now, not at the first connection.
  for (const address of controllers) controllerChannel(access, address);
  const tls = access.cert !== null;
  requireSafeListen({ what: "an agent, which serves other nodes,", host, tls, asks: tls, advice: ADVICE });
  requireSafeListen({ what: "an agent's /metrics", host: metricsHost, tls, asks: tls, advice: ADVICE });
}
