import { constants } from "node:os";
import path from "node:path";
import { type Command, Option } from "commander";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { TlsFiles } from "../../security/tls_files.js";
import { accessOf, globals } from "../context.js";
import type { FailedMessage, ListeningMessage } from "../local_cluster.js";
import { wholeNumber } from "../read_options.js";
import { addStoreOptions, readStore, type StoreOptions } from "../read_store.js";

/** For what an agent has said last to be sent. */
const EXIT_MS = 1_000;

/** The two long-running processes. Both end cleanly on SIGTERM, SIGINT, and when a parent with an IPC channel goes. */
export function addServerCommands(program: Command): void {
  addStoreOptions(program.command("controller"))
    .description("run a controller: gRPC for agents and gokuctl, REST, /metrics")
    .option(
      "--host <address>",
      "address to listen on; beyond loopback needs TLS, and tokens or client certificates",
      "127.0.0.1",
    )
    .option("--port <port>", "gRPC port; 0: any free one", "7070")
    .option("--rest-port <port>", "HTTP port; 0: any free one", "7080")
    .option(
      "--advertise <host>",
      "host at which agents, people and standbys reach this controller, as its certificate names it (default: --host)",
    )
    .addOption(new Option("--tls-cert <file>", "certificate of this controller (PEM)").env("GOKU_TLS_CERT"))
    .addOption(new Option("--tls-key <file>", "its key").env("GOKU_TLS_KEY"))
    .addOption(new Option("--tls-ca <file>", "CA of the callers' certificates").env("GOKU_TLS_CA"))
    .addOption(
      new Option("--tokens <file>", 'tokens that callers may show: lines of "gokuctl token create"').env(
        "GOKU_TOKENS",
      ),
    )
    .option(
      "--cluster <name>",
      "label of its nodes' metrics, for a Prometheus that reads several clusters",
      "goku",
    )
    .option("--rate-limit <count>", "requests a second of each token or certificate", "100")
    .addOption(
      new Option(
        "--kubernetes <namespace>",
        "serve the TrainingJobs of that namespace and say what becomes of its pods; of the cluster this runs in, or of $KUBECONFIG",
      ).env("GOKU_KUBERNETES"),
    )
    .option(
      "--kubernetes-pod <name>",
      "the pod that this controller runs in, to be labelled goku.dev/leader while it leads",
    )
    .option(
      "--kubernetes-taint-nodes",
      "taint the machines of quarantined nodes, and evict their pods; needs rights on nodes (docs/kubernetes.md)",
      false,
    )
    .option(
      "--kubernetes-failure-domain-label <key>",
      "label of machines that says what fails together, such as topology.kubernetes.io/zone; needs the right to read nodes (docs/kubernetes.md)",
    )
    .addHelpText(
      "after",
      `
Example:
  gokuctl controller --host 0.0.0.0 --tls-cert certs/controller.crt --tls-key certs/controller.key --tls-ca certs/ca.crt --tokens tokens`,
    )
    .action(async (options: ControllerCommandOptions) => {
      try {
        // Loaded here, so that no other command pays for it.
        const { runController } = await import("../../controller/main.js");
        const server = await runController({
          host: options.host,
          port: wholeNumber("--port", options.port, { most: 65_535 }),
          restPort: wholeNumber("--rest-port", options.restPort, { most: 65_535 }),
          advertise: options.advertise ?? null,
          store: await readStore(options),
          tls: tlsFiles(options),
          tokensFile: options.tokens ?? null,
          cluster: clusterName(options.cluster),
          requestsPerSecond: wholeNumber("--rate-limit", options.rateLimit, { least: 1 }),
          kubernetes: kubernetesSettings(options),
        });
        process.send?.({
          kind: "listening",
          grpc: server.grpc,
          rest: server.rest,
        } satisfies ListeningMessage);
        await untilAsked();
        await server.close();
      } catch (error) {
        const known = toGokuError(error);
        process.send?.({ kind: "failed", code: known.code, message: known.message } satisfies FailedMessage);
        throw error;
      }
    });

  program
    .command("agent")
    .description(
      "run a node's agent: takes ranks from a controller, supervises them, keeps snapshots, writes checkpoints",
    )
    .requiredOption("--node <name>", "stable name of this node", process.env.NODE_NAME)
    .option("--slots <count>", "ranks this node can hold", "1")
    .option("--host <address>", "address at which other nodes reach this one", "127.0.0.1")
    .option(
      "--failure-domain <name>",
      "what fails together with this node, such as its rack: copies of its state go elsewhere (default: the node itself)",
      process.env.GOKU_FAILURE_DOMAIN ?? "",
    )
    .option(
      "--host-root <dir>",
      "where dev/kmsg and sys of the machine are, which are watched for faults; in a container where they are mounted",
      process.env.GOKU_HOST_ROOT ?? "/",
    )
    .option("--metrics-host <address>", "address on which /metrics is served", "127.0.0.1")
    .option("--metrics-port <port>", "its port; 0: any free one, which the controller tells Prometheus", "0")
    .option(
      "--peak-tflops <number>",
      "what the device of one slot can do in the job's precision, for the model FLOPs utilisation (default: not known)",
    )
    .option("--state-dir <dir>", "shared-memory folder of snapshots and pages", "/dev/shm/goku")
    .option("--log-dir <dir>", "folder of the ranks' logs", "./runs/logs")
    .option(
      "--grace <seconds>",
      "on SIGTERM: time to make the ranks' state durable; less than whoever sends it allows",
      "30",
    )
    .option(
      "--exit-code <code>",
      "with which to end after SIGTERM; whoever starts agents again only where they failed (Kubernetes' Jobs, Slurm) wants 35",
      "0",
    )
    .action(
      async (
        options: Record<
          | "node"
          | "slots"
          | "host"
          | "failureDomain"
          | "hostRoot"
          | "metricsHost"
          | "metricsPort"
          | "stateDir"
          | "logDir"
          | "grace"
          | "exitCode",
          string
        > & { peakTflops?: string },
        command: Command,
      ) => {
        const exitCode = wholeNumber("--exit-code", options.exitCode, { most: 255 });
        const { runAgent } = await import("../../worker/agent/run_agent.js");
        const agent = await runAgent({
          controllers: (command.optsWithGlobals() as { controller: string }).controller.split(","),
          node: options.node,
          slots: wholeNumber("--slots", options.slots, { least: 1 }),
          host: options.host,
          failureDomain: options.failureDomain,
          hostRoot: path.resolve(options.hostRoot),
          metricsHost: options.metricsHost,
          metricsPort: wholeNumber("--metrics-port", options.metricsPort, { most: 65_535 }),
          peakTflops: options.peakTflops === undefined ? null : Number(options.peakTflops),
          stateDir: path.resolve(options.stateDir),
          logDir: path.resolve(options.logDir),
          access: accessOf(globals(command)),
          graceMs: 1000 * wholeNumber("--grace", options.grace, { most: 86_400 }),
        });
        await agent.close(await untilAsked());
        process.exitCode = exitCode;
        setTimeout(() => process.exit(), EXIT_MS).unref(); // a write that hangs keeps the process alive
      },
    );
}

interface ControllerCommandOptions extends StoreOptions {
  host: string;
  port: string;
  restPort: string;
  advertise?: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  tokens?: string;
  cluster: string;
  rateLimit: string;
  kubernetes?: string;
  kubernetesPod?: string;
  kubernetesTaintNodes: boolean;
  kubernetesFailureDomainLabel?: string;
}

/** Null: nothing was said of Kubernetes. Throws ARGUMENT_INVALID. */
function kubernetesSettings({
  kubernetes: namespace,
  kubernetesTaintNodes: taintNodes,
  kubernetesPod: pod = null,
  kubernetesFailureDomainLabel: domainLabel = null,
}: Pick<ControllerCommandOptions, "kubernetes" | "kubernetesTaintNodes"> & {
  kubernetesPod?: string | null;
  kubernetesFailureDomainLabel?: string | null;
}) {
  if (namespace === undefined) {
    const options = {
      "--kubernetes-taint-nodes": taintNodes,
      "--kubernetes-pod": pod !== null,
      "--kubernetes-failure-domain-label": domainLabel !== null,
    };
    const option = Object.entries(options).find(([, isGiven]) => isGiven)?.[0];
    if (option === undefined) return null;
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read ${option}: it says nothing without --kubernetes and its namespace`,
    );
  }
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace))
    return { namespace, taintNodes, domainLabel, pod };
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read --kubernetes ${JSON.stringify(namespace)}: want the name of a namespace`,
  );
}

/** Throws ARGUMENT_INVALID. */
function clusterName(name: string): string {
  if (/^[A-Za-z0-9_.-]{1,63}$/.test(name)) return name;
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot run a controller: --cluster is ${JSON.stringify(name)}, want letters, digits and ._-`,
  );
}

/** Null: none is named. Throws ARGUMENT_INVALID. */
function tlsFiles({ tlsCert: cert, tlsKey: key, tlsCa: ca }: ControllerCommandOptions): TlsFiles | null {
  if (cert !== undefined && key !== undefined) return { cert, key, ca: ca ?? null };
  if (cert === undefined && key === undefined && ca === undefined) return null;
  throw new GokuError(
    "ARGUMENT_INVALID",
    "Cannot serve TLS: --tls-cert and --tls-key belong together, and --tls-ca to both; one is missing",
  );
}

/** What asked this process to end. A second signal ends it at once. */
function untilAsked(): Promise<string> {
  return new Promise((resolve) => {
    let isAsked = false;
    const asked = (by: string) => {
      isAsked = true;
      process.off("disconnect", left); // a listener keeps the channel open, and with it the process alive
      resolve(by);
    };
    const left = () => asked("the end of its parent");
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => (isAsked ? process.exit(128 + constants.signals[signal]) : asked(signal)));
    }
    if (process.connected === false)
      left(); // forked by a parent that has gone already
    else if (process.channel) process.once("disconnect", left);
  });
}
