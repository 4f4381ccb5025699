import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { KubeError } from "../../controller/kubernetes/kube_api.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import { globals } from "../context.js";
import { show } from "../output.js";
import { readAnyJob, wholeNumber } from "../read_options.js";

/** Between tries of an API server that does not know TrainingJobs yet, or does not answer. */
const RETRY_MS = 2_000;

/** Commands that ask Kubernetes, not a controller. */
export function addKubernetesCommands(program: Command): void {
  const kubernetes = program
    .command("kubernetes")
    .description("what a cluster needs of Kubernetes; asks the API server of this pod, or of $KUBECONFIG");
  kubernetes
    .command("bootstrap")
    .description("make the certificates and the token that are missing, as Secrets")
    .requiredOption("--namespace <name>", "namespace of the Secrets")
    .option("--days <count>", "how long certificates are good for; CAs for ten years", "365")
    .option("--tokens-only", "certificates are made by something else, such as cert-manager", false)
    .addHelpText("after", "\nExample:\n  gokuctl kubernetes bootstrap --namespace goku")
    .action(bootstrap);
  kubernetes
    .command("apply")
    .description("submit a job file as a TrainingJob")
    .argument("<file>", "job file (YAML); paths in it are absolute")
    .argument("[overrides...]", "dotted overrides, for example train.steps=200")
    .requiredOption("--namespace <name>", "namespace of the TrainingJob")
    .option("--resume-from <uri>", "checkpoint to continue from")
    .option("--wait <seconds>", "how long an API server may take to know TrainingJobs", "0")
    .addHelpText("after", "\nExample:\n  gokuctl kubernetes apply shapes.yaml --namespace goku")
    .action(apply);
}

interface BootstrapCommandOptions {
  namespace: string;
  days: string;
  tokensOnly: boolean;
}

async function bootstrap(options: BootstrapCommandOptions, command: Command): Promise<void> {
  const days = wholeNumber("--days", options.days, { least: 1, most: 36_500 });
  const { namespace, tokensOnly } = options;
  const http = await kubeHttp();
  const { bootstrapSecrets } = await import("../kubernetes_secrets.js");
  const made = await asGoku(bootstrapSecrets(http, { namespace, days, tokensOnly }));
  show(globals(command), { made }, () =>
    made.length === 0
      ? "All Secrets are there already"
      : made.map((name) => `made Secret ${name}`).join("\n"),
  );
}

async function apply(
  file: string,
  overrides: string[],
  options: { namespace: string; resumeFrom?: string; wait: string },
  command: Command,
): Promise<void> {
  const seconds = wholeNumber("--wait", options.wait, { most: 86_400 });
  const job = readAnyJob(file, overrides);
  const http = await kubeHttp();
  const { trainingJobOf } = await import("../../controller/kubernetes/training_job_of.js");
  const object = trainingJobOf(job, options.resumeFrom ?? null);
  const request = {
    method: "PATCH",
    path: `/apis/${object.apiVersion}/namespaces/${options.namespace}/trainingjobs/${job.name}`,
    query: { fieldManager: "gokuctl", fieldValidation: "Strict" },
    body: object,
    type: "application/apply-patch+yaml",
  } as const;
  const untilMs = performance.now() + 1000 * seconds;
  for (;;) {
    try {
      await http.ask(request);
      break;
    } catch (error) {
      const passes = error instanceof KubeError && ["notFound", "unreachable", "busy"].includes(error.kind);
      if (!passes || performance.now() > untilMs) throw gokuError(error);
      await sleep(RETRY_MS);
    }
  }
  show(
    globals(command),
    { name: job.name, namespace: options.namespace },
    () => `applied TrainingJob ${job.name}`,
  );
}

/** Loaded here, so that no other command pays for the client. */
async function kubeHttp() {
  const { KubeHttp, readKubeConfig } = await import("../../controller/kubernetes/kube_http.js");
  return new KubeHttp(readKubeConfig());
}

function asGoku<T>(asked: Promise<T>): Promise<T> {
  return asked.catch((error: unknown) => {
    throw gokuError(error);
  });
}

/** What the API server says, in the catalogue's terms. */
function gokuError(error: unknown): unknown {
  if (!(error instanceof KubeError)) return error;
  return new GokuError(CODES[error.kind], error.message, { cause: error });
}

const CODES: Record<KubeError["kind"], ErrorCode> = {
  conflict: "CONFLICT",
  exists: "CONFLICT",
  gone: "CONFLICT",
  notFound: "NOT_FOUND",
  forbidden: "PERMISSION_DENIED",
  invalid: "JOB_INVALID",
  busy: "RATE_LIMITED",
  unreachable: "CONTROLLER_UNREACHABLE",
};
