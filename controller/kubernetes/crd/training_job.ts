import type { z } from "zod";
import { commandJobSchema } from "../../../job/command_job.js";
import { GokuError } from "../../../job/errors.js";
import { jobSchema } from "../../../job/job.js";
import { resolveAnyJob } from "../../../job/load_job.js";
import { GROUP, KIND, PLURAL, VERSION } from "../training_job.js";
import { statusSchema } from "./status_schema.js";
import { type CelRule, type StructuralSchema, structural, withRules } from "./structural.js";

const PRINTED = [
  ["Phase", "string", ".status.phase", 0],
  ["Step", "integer", ".status.step", 0],
  ["Percent", "integer", ".status.trainerStatus.progressPercentage", 0],
  ["ETA", "string", ".status.eta", 0],
  ["Loss", "string", ".status.loss", 0],
  ["Layout", "string", ".status.layout", 0],
  ["Last incident", "string", ".status.lastIncident.code", 0],
  ["Reason", "string", ".status.reason", 1],
  ["Checkpoint", "string", ".status.checkpoint.uri", 1],
  ["Age", "date", ".metadata.creationTimestamp", 0],
] as const;

/** The CustomResourceDefinition of TrainingJob; its spec is the job file, made from the schema that gokuctl checks it by. */
export function trainingJobCrd(): Record<string, unknown> {
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${PLURAL}.${GROUP}`, labels: { "app.kubernetes.io/part-of": "goku" } },
    spec: {
      group: GROUP,
      scope: "Namespaced",
      names: {
        kind: KIND,
        listKind: `${KIND}List`,
        plural: PLURAL,
        singular: "trainingjob",
        shortNames: ["tj"],
        categories: ["all"],
      },
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: PRINTED.map(([name, type, jsonPath, priority]) => ({
            name,
            type,
            jsonPath,
            ...(priority > 0 ? { priority } : {}),
          })),
          schema: { openAPIV3Schema: rootSchema() },
        },
      ],
    },
  };
}

function rootSchema(): StructuralSchema {
  const spec = specSchema();
  const name = spec.properties!.name!["x-kubernetes-validations"]![0]!;
  return {
    type: "object",
    description: "A training run. Deleting it saves and stops.",
    required: ["spec"],
    properties: {
      apiVersion: { type: "string" },
      kind: { type: "string" },
      metadata: { type: "object" },
      spec,
      status: statusSchema,
    },
    "x-kubernetes-validations": [
      // Metadata allows dots and 253 characters, names of jobs do not.
      { rule: name.rule.replace("self.", "self.metadata.name."), message: `metadata.name: ${name.message}` },
      {
        rule: "!has(self.spec.name) || self.spec.name == self.metadata.name",
        message: "spec.name: want metadata.name, or leave it out",
      },
    ],
  };
}

/** Keys of both kinds of jobs, and rules that say which go together. */
export function specSchema(): StructuralSchema {
  const model = structural(jobSchema);
  const program = structural(commandJobSchema);
  const merged: StructuralSchema = {
    type: "object",
    description: "The job file (docs/job-file.md). What is wrong is said as gokuctl says it.",
    properties: { ...program.properties, ...model.properties },
  };
  absolute(merged, ["data", "media"], "self.startsWith('/')");
  absolute(merged, ["checkpoint", "uri"], "!self.startsWith('file://') || self.startsWith('file:///')");
  return withRules(merged, [
    ...sectionRules(),
    {
      rule: "self == oldSelf",
      message:
        "a job does not change while it runs: delete this one, which saves and stops, and apply it under another name with the annotation goku.dev/resume-from",
    },
  ]);
}

function absolute(schema: StructuralSchema, path: readonly [string, string], rule: string): void {
  const parent = schema.properties![path[0]]!.properties!;
  parent[path[1]] = withRules(parent[path[1]]!, [
    { rule, message: "want an absolute path: pods have no folder to start from" },
  ]);
}

/** What is missing from a job of our model, and what has no place in one with a program of its own: the texts of gokuctl. */
function sectionRules(): CelRule[] {
  const missing = problems({ name: "x" }).filter((text) => text.includes(" is missing"));
  const absent = missing.map((text) => {
    const key = text.split(" ")[0]!;
    return { rule: `has(self.trainer) || has(self.${key})`, message: text };
  });
  const misplaced = onlyIn(jobSchema, commandJobSchema).map((path) => {
    const job: Record<string, unknown> = { name: "x", trainer: { command: ["true"] } };
    put(job, path, {});
    const guards = path.map((_, depth) => `!has(self.${path.slice(0, depth + 1).join(".")})`);
    const dotted = path.join(".");
    const message = problems(job).find((text) => text.startsWith(`${dotted} `))!;
    return { rule: ["!has(self.trainer)", ...guards].join(" || "), message };
  });
  return [...absent, ...misplaced];
}

/** Keys that the first schema has and the second has not, each at the highest level at which it is missing. */
function onlyIn(first: z.ZodObject, second: z.ZodObject): string[][] {
  const [some, others] = [structural(first), structural(second)];
  return missingFrom(some, others);
}

function missingFrom(some: StructuralSchema, others: StructuralSchema): string[][] {
  return Object.entries(some.properties ?? {}).flatMap(([key, child]) => {
    const other = others.properties?.[key];
    if (other === undefined) return [[key]];
    return missingFrom(child, other).map((rest) => [key, ...rest]);
  });
}

function put(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  let parent = target;
  for (const key of path.slice(0, -1)) {
    parent[key] ??= {};
    parent = parent[key] as Record<string, unknown>;
  }
  parent[path.at(-1)!] = value;
}

function problems(job: Record<string, unknown>): string[] {
  try {
    resolveAnyJob(job);
  } catch (error) {
    if (error instanceof GokuError) return error.message.replace(/^Cannot use job: /, "").split("; ");
    throw error;
  }
  throw new Error("a job that was to be refused was taken");
}
