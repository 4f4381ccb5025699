import { writeFileSync } from "node:fs";
import { stringify } from "yaml";
import { trainingJobCrd } from "../controller/kubernetes/crd/training_job.js";

/** Writes the CustomResourceDefinition anew after the job schema has changed. A test compares the two. */
export const CRD_FILE = "deploy/kubernetes/base/trainingjobs.yaml";
export const crdText = (): string =>
  `# Made from the job schema by "make crd"; do not edit.\n${stringify(trainingJobCrd(), { lineWidth: 0 })}`;

if (process.argv[1]?.endsWith("crd.js")) writeFileSync(CRD_FILE, crdText());
