import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseAllDocuments } from "yaml";

export interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: {
    name: string;
    namespace?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
  };
  spec?: Record<string, unknown>;
  [key: string]: unknown;
}
export interface PodTemplate {
  metadata?: { labels?: Record<string, string> };
  spec: PodSpec;
}
export interface PodSpec {
  serviceAccountName?: string;
  automountServiceAccountToken?: boolean;
  terminationGracePeriodSeconds?: number;
  securityContext?: Record<string, unknown>;
  initContainers?: Container[];
  containers: Container[];
  volumes?: { name: string; secret?: { secretName: string }; [source: string]: unknown }[];
}
export interface Container {
  name: string;
  image: string;
  args?: string[];
  env?: { name: string; value?: string }[];
  envFrom?: { secretRef?: { name: string; optional?: boolean } }[];
  resources?: { requests?: Record<string, string>; limits?: Record<string, string> };
  securityContext?: Record<string, unknown>;
  volumeMounts?: { name: string; mountPath: string }[];
  ports?: { name: string; containerPort: number }[];
}

/** The kubectl that scripts/kubectl.sh fetched, the one on PATH, or kustomize alone; null: none that renders our manifests. */
export function kustomizeTool(): string[] | null {
  const tools = [
    ["build/tools/kubectl", "kustomize"],
    ["kubectl", "kustomize"],
    ["kustomize", "build"],
  ];
  // Old ones are there and know no components.
  const folder = "deploy/kubernetes/overlays/cpu-demo-monitored";
  return tools.find(([tool, word]) => spawnSync(tool!, [word!, folder]).status === 0) ?? null;
}

/** What `kubectl apply -k` would send, from a folder. */
export function render(tool: readonly string[], folder: string): Manifest[] {
  const done = spawnSync(tool[0]!, [...tool.slice(1), folder], { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`Cannot render ${folder}: ${done.stderr}`);
  return parseAllDocuments(done.stdout).map((document) => {
    if (document.errors.length > 0) throw document.errors[0]!;
    return document.toJS() as Manifest;
  });
}

/** The same of a base with components, as a person's own overlay would have them. */
export function renderWith(tool: readonly string[], base: string, components: readonly string[]): Manifest[] {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-overlay-"));
  const from = (to: string) => path.relative(folder, path.resolve(to));
  const overlay = {
    ...{ apiVersion: "kustomize.config.k8s.io/v1beta1", kind: "Kustomization" },
    ...{ resources: [from(base)], components: components.map(from) },
  };
  try {
    writeFileSync(path.join(folder, "kustomization.yaml"), JSON.stringify(overlay));
    return render(tool, folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The template of the pods that an object makes; null: it makes none. */
export function templateOf({ kind, spec }: Manifest): PodTemplate | null {
  if (kind === "JobSet") {
    const jobs = (spec as { replicatedJobs: { template: { spec: { template: PodTemplate } } }[] })
      .replicatedJobs;
    return jobs[0]!.template.spec.template;
  }
  return (spec as { template?: PodTemplate } | undefined)?.template ?? null;
}
