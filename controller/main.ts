import * as grpc from "@grpc/grpc-js";
import pino from "pino";
import { ControllerServiceService } from "../gen/goku/v1/controller.pb.js";
import { chooseLayout } from "../job/choose_layout.js";
import { ERRORS, GokuError } from "../job/errors.js";
import { isAddress } from "../job/is_address.js";
import { productVersion } from "../job/version.js";
import { isEveryAddress, joinAddress } from "../security/loopback.js";
import type { TlsFiles } from "../security/tls_files.js";
import { agentService } from "./api/agent_sessions.js";
import type { AuditSink } from "./api/audit.js";
import { grpcControllerService } from "./api/grpc_controller_service.js";
import { GrpcGuard } from "./api/grpc_guard.js";
import { Guard } from "./api/guard.js";
import type { LeaderAddresses } from "./api/not_leader_error.js";
import { Operations } from "./api/operations.js";
import { restServer } from "./api/rest_server.js";
import { DEFAULT_LIMITS } from "./core/contract.js";
import type { KubernetesSettings } from "./kubernetes/start_kubernetes.js";
import { ControllerShell } from "./shell/controller_shell.js";
import { Metrics } from "./shell/metrics.js";
import { openStore, type StoreSettings } from "./shell/open_store.js";
import { readPageFiles } from "./shell/page_files.js";
import { ServerSecurity } from "./shell/server_security.js";
import { ShellApi } from "./shell/shell_api.js";
import { systemClock } from "./store/clock.js";

const SERVER_OPTIONS: grpc.ServerOptions = {
  // Finds connections whose other end is gone without a word, in 8 s.
  "grpc.keepalive_time_ms": 5_000,
  "grpc.keepalive_timeout_ms": 3_000,
  // The largest message by far is a batch of log lines: 200 of at most 4,000 characters.
  "grpc.max_receive_message_length": 4 * 2 ** 20,
  "grpc.max_concurrent_streams": 100,
  "grpc.max_connection_idle_ms": 300_000,
};

export interface ControllerOptions {
  /** Beyond loopback only with TLS, and tokens or client certificates. */
  host: string;
  /** 0: any free port. */
  port: number;
  restPort: number;
  /** Host at which agents, people and other controllers reach this one; null: `host`, unless that means every address. */
  advertise: string | null;
  store: StoreSettings;
  /** Null: plain text. With `ca`, callers may show certificates. */
  tls: TlsFiles | null;
  /** Null: no tokens. */
  tokensFile: string | null;
  /** Name that metrics of this cluster's nodes bear. */
  cluster: string;
  /** Requests a second of each token or certificate. */
  requestsPerSecond: number;
  /** Null: not run by Kubernetes, or not to deal with it. */
  kubernetes: KubernetesSettings | null;
}

export interface RunningController {
  /** host:port. */
  grpc: string;
  /** http://host:port, or https. */
  rest: string;
  close(): Promise<void>;
}

/** Starts a controller. Throws STORE_LOCKED, STORE_UNAVAILABLE, PORT_IN_USE, ARGUMENT_INVALID. */
export async function runController(options: ControllerOptions): Promise<RunningController> {
  const version = productVersion();
  const log = pino({ base: { part: "controller" }, timestamp: pino.stdTimeFunctions.isoTime });
  const metrics = new Metrics();
  const security = new ServerSecurity(options, log, (expiryMs) => metrics.certificate("server", expiryMs));
  const {
    store,
    leaseMs,
    name,
    close: closeStore,
  } = await openStore(options.store, {
    onCertificate: (expiryMs) => metrics.certificate("store", expiryMs),
    onReplaced: () => log.info("certificates and password of the store read again"),
    onFailed: (error) => log.error(`the old one stays in use: ${error.message}`),
  });
  const shell = new ControllerShell({
    store,
    clock: systemClock,
    leaseMs,
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
  const { server, rest, guard } = await makeServers(options, { shell, api, security, metrics, version });
  try {
    // Ports first: a controller that cannot be reached must not lead.
    const address = joinAddress(options.host, options.port);
    const port = await bind(server, address, security.grpcCredentials());
    const url = await listen(rest, options.host, options.restPort);
    const bound = joinAddress(options.host, port);
    const addresses = advertised(options, { port, url });
    if (addresses === null && options.store.kind === "etcd")
      log.warn(
        `other controllers cannot say where this one is: it listens on ${options.host}; give --advertise`,
      );
    await shell.start(addresses);
    const kubernetes = await startKubernetes(options.kubernetes, { shell, api, log });
    const asks = guard.isOpen ? "nobody" : "everybody";
    log.info({ grpc: bound, rest: url, store: name, asks }, "listening");
    return {
      grpc: bound,
      rest: url,
      close: async () => {
        security.close();
        // At once: who leads next need not wait for what the API server of Kubernetes still owes us.
        await Promise.all([shell.stop(), kubernetes?.stop()]);
        server.forceShutdown();
        await rest.close();
        await closeStore();
      },
    };
  } catch (error) {
    security.close();
    await shell.stop(); // it may lead already
    server.forceShutdown();
    await rest.close();
    await closeStore();
    throw error;
  }
}

/** Loaded only where it is used: no other controller pays for the client. */
async function startKubernetes(
  settings: KubernetesSettings | null,
  parts: { shell: ControllerShell; api: ShellApi; log: pino.Logger },
) {
  if (settings === null) return null;
  const { startKubernetes: start } = await import("./kubernetes/start_kubernetes.js");
  return start(settings, parts);
}

/** What listens, with the guard before it; does not listen yet. */
async function makeServers(
  { requestsPerSecond, cluster }: ControllerOptions,
  parts: {
    shell: ControllerShell;
    api: ShellApi;
    security: ServerSecurity;
    metrics: Metrics;
    version: string;
  },
) {
  const { shell, api, security, metrics, version } = parts;
  const audit: AuditSink = (entry, job) => shell.audit(entry, job);
  const operations = new Operations(api, audit);
  const guard = new Guard({
    tokens: () => security.tokens,
    certificates: security.certificates,
    requestsPerSecond,
    audit,
    nowMs: () => performance.now(),
  });
  security.onTokens = () => guard.recheck();
  const grpcGuard = new GrpcGuard(guard);
  const server = new grpc.Server({ ...SERVER_OPTIONS, interceptors: [grpcGuard.interceptor] });
  server.addService(agentService, shell.sessions.service());
  server.addService(ControllerServiceService, grpcControllerService(api, operations, grpcGuard));
  const page = readPageFiles();
  const rest = await restServer({
    page,
    api,
    operations,
    guard,
    metrics,
    version,
    cluster,
    tls: security.tls,
  });
  security.follow(rest.server);
  return { server, rest, guard };
}

/** Where the ports that were bound are reached from elsewhere; null: not known. Throws ARGUMENT_INVALID. */
function advertised(
  { advertise, host }: ControllerOptions,
  bound: { port: number; url: string },
): LeaderAddresses | null {
  const name = advertise ?? (isEveryAddress(host) ? null : host);
  if (name === null) return null;
  const { protocol, port } = new URL(bound.url);
  const grpc = joinAddress(name, bound.port);
  if (isAddress(grpc)) return { grpc, rest: `${protocol}//${joinAddress(name, Number(port))}` };
  const found = JSON.stringify(name);
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot advertise ${found}: want a host name or an address, without a port`,
  );
}

function bind(server: grpc.Server, address: string, credentials: grpc.ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => {
      if (error) reject(portInUse("gRPC", address, "--port", error));
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
    throw portInUse("REST", joinAddress(host, port), "--rest-port", error as Error);
  }
}

function portInUse(what: string, address: string, option: string, cause: Error): GokuError {
  return new GokuError(
    "PORT_IN_USE",
    `Cannot listen for ${what} on ${address}: ${cause.message}; stop what listens there or choose another ${option}`,
    { cause },
  );
}
