import * as grpc from "@grpc/grpc-js";
import pino from "pino";
import { AgentServiceService } from "../gen/goku/v1/agent.pb.js";
import { ControllerServiceService } from "../gen/goku/v1/controller.pb.js";
import { chooseLayout } from "../job/choose_layout.js";
import { ERRORS, GokuError } from "../job/errors.js";
import { productVersion } from "../job/version.js";
import { grpcControllerService } from "./api/grpc_controller_service.js";
import { restServer } from "./api/rest_server.js";
import { DEFAULT_LIMITS } from "./core/contract.js";
import { ControllerShell } from "./shell/controller_shell.js";
import { Metrics } from "./shell/metrics.js";
import { ShellApi } from "./shell/shell_api.js";
import { systemClock } from "./store/clock.js";
import { EmbeddedStore } from "./store/embedded.js";

export interface ControllerOptions {
  /** Loopback only: beyond it a controller would need TLS or a token. */
  host: string;
  /** 0: any free port. */
  port: number;
  restPort: number;
  storeFolder: string;
}

export interface RunningController {
  /** host:port. */
  grpc: string;
  /** http://host:port. */
  rest: string;
  close(): Promise<void>;
}

/** Starts a controller on the embedded store. Throws STORE_LOCKED, STORE_UNAVAILABLE, PORT_IN_USE, ARGUMENT_INVALID. */
export async function runController(options: ControllerOptions): Promise<RunningController> {
  if (!["127.0.0.1", "::1", "localhost"].includes(options.host)) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot listen on ${options.host}: beyond loopback a controller needs TLS or a token; listen on 127.0.0.1`,
    );
  }
  const version = productVersion();
  const log = pino({ base: { part: "controller" }, timestamp: pino.stdTimeFunctions.isoTime });
  const store = await EmbeddedStore.open(options.storeFolder);
  const metrics = new Metrics();
  const shell = new ControllerShell({
    store,
    clock: systemClock,
    config: { limits: DEFAULT_LIMITS, version, chooseLayout },
    metrics,
    log,
    onBroken: (error) => {
      log.fatal(
        error,
        "the core threw: ends, to start anew from what is durable; training goes on meanwhile",
      );
      process.exit(ERRORS.INTERNAL.exit);
    },
  });
  const api = new ShellApi(shell);
  const server = new grpc.Server({
    // Finds connections whose other end is gone without a word, in 8 s.
    "grpc.keepalive_time_ms": 5_000,
    "grpc.keepalive_timeout_ms": 3_000,
    "grpc.max_receive_message_length": 16 * 1024 * 1024,
  });
  server.addService(AgentServiceService, shell.sessions.service());
  server.addService(ControllerServiceService, grpcControllerService(api));
  const rest = await restServer(api, metrics, version);
  try {
    // Ports first: a controller that cannot be reached must not lead.
    const port = await bind(server, options.host, options.port);
    const url = await listen(rest, options.host, options.restPort);
    await shell.start();
    const address = `${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`;
    log.info({ grpc: address, rest: url, store: options.storeFolder }, "listening");
    return {
      grpc: address,
      rest: url,
      close: async () => {
        await shell.stop();
        server.forceShutdown();
        await rest.close();
        await store.close();
      },
    };
  } catch (error) {
    server.forceShutdown();
    await rest.close();
    await store.close();
    throw error;
  }
}

function bind(server: grpc.Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${host}:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
      if (error) reject(portInUse("gRPC", host, port, "--port", error));
      else resolve(bound);
    });
  });
}

async function listen(
  rest: Awaited<ReturnType<typeof restServer>>,
  host: string,
  port: number,
): Promise<string> {
  try {
    return await rest.listen({ host, port });
  } catch (error) {
    throw portInUse("REST", host, port, "--rest-port", error as Error);
  }
}

function portInUse(what: string, host: string, port: number, option: string, cause: Error): GokuError {
  return new GokuError(
    "PORT_IN_USE",
    `Cannot listen for ${what} on ${host}:${port}: ${cause.message}; stop what listens there or choose another ${option}`,
    { cause },
  );
}
