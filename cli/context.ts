import type { Command } from "commander";
import type { AsOf } from "../controller/api/as_of.js";
import type { ClientAccess } from "../security/client_access.js";
import { ControllerClient } from "./client.js";
import type { Output } from "./output.js";

/** Options every command shares. */
export interface GlobalOptions extends Output {
  controller: string;
  ca?: string;
  cert?: string;
  key?: string;
  tokenFile?: string;
}

export function globals(command: Command): GlobalOptions {
  return command.optsWithGlobals() as GlobalOptions;
}

/** How this command shows a controller who it is. */
export function accessOf({ ca, cert, key, tokenFile }: GlobalOptions): ClientAccess {
  return { ca: ca ?? null, cert: cert ?? null, key: key ?? null, tokenFile: tokenFile ?? null };
}

/** A client for this command. That its answers come from memory is told once, beside them. */
export function connect(options: GlobalOptions): ControllerClient {
  let told: number | null = null;
  return new ControllerClient(options.controller, accessOf(options), (asOf) => {
    if (told === asOf.atMs) return;
    told = asOf.atMs;
    process.stderr.write(`${asOfText(asOf)}\n`);
  });
}

export function asOfText({ atMs, storeSilentMs }: AsOf): string {
  const at = new Date(atMs).toISOString();
  const why =
    storeSilentMs === null
      ? "the controller does not lead at present"
      : `the controller has not reached its store since ${new Date(storeSilentMs).toISOString()}`;
  return `From memory, as of ${at}: ${why}; training goes on, changes wait`;
}

/** Runs `body` with a connected client and closes it after. */
export async function withController<T>(
  command: Command,
  body: (client: ControllerClient, options: GlobalOptions) => Promise<T>,
): Promise<T> {
  const options = globals(command);
  const client = connect(options);
  try {
    return await body(client, options);
  } finally {
    client.close();
  }
}
