import type { Command } from "commander";
import { ControllerClient } from "./client.js";
import type { Output } from "./output.js";

/** Options every command shares. */
export interface GlobalOptions extends Output {
  controller: string;
}

export function globals(command: Command): GlobalOptions {
  return command.optsWithGlobals() as GlobalOptions;
}

/** Runs `body` with a connected client and closes it after. */
export async function withController<T>(
  command: Command,
  body: (client: ControllerClient, options: GlobalOptions) => Promise<T>,
): Promise<T> {
  const options = globals(command);
  const client = new ControllerClient(options.controller);
  try {
    return await body(client, options);
  } finally {
    client.close();
  }
}
