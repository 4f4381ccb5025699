import type { StructuralSchema } from "./structural.js";

const text: StructuralSchema = { type: "string" };
const whole: StructuralSchema = { type: "integer", format: "int64" };
const time: StructuralSchema = { type: "string", format: "date-time" };

/** What the controller tells of a TrainingJob; `TrainingJobStatus` in training_job.ts has the same fields. */
export const statusSchema: StructuralSchema = {
  type: "object",
  properties: {
    observedGeneration: whole,
    jobId: { ...text, description: "Of the controller's job that this object stands for." },
    phase: {
      ...text,
      description:
        "Queued, Forming, Running, Recovering, Stopping, Completed, Stopped, Failed; Rejected: the job was not taken.",
    },
    reason: { ...text, description: "Why it is in this phase, as gokuctl status says." },
    step: whole,
    stepsTotal: whole,
    eta: { ...text, description: "Time to the last step at the present pace." },
    loss: { ...text, description: "Of the last completed step." },
    layout: { ...text, description: "dp_replicate x dp_shard x sp." },
    generation: { ...whole, description: "Of the membership that trains." },
    checkpoint: {
      type: "object",
      description: "The newest that is committed.",
      properties: { uri: text, step: whole },
    },
    incidents: { ...whole, description: "How many there were." },
    lastIncident: {
      type: "object",
      description: "As gokuctl why tells it.",
      properties: {
        number: whole,
        code: text,
        what: text,
        decision: text,
        outcome: { ...text, description: "open, recovered or failed." },
        detectedAt: time,
      },
    },
    trainerStatus: {
      type: "object",
      description: "The same, in the words of Kubeflow's trainer.",
      properties: {
        progressPercentage: { type: "integer", format: "int32" },
        estimatedRemainingSeconds: whole,
        metrics: {
          type: "array",
          "x-kubernetes-list-type": "map",
          "x-kubernetes-list-map-keys": ["name"],
          items: {
            type: "object",
            required: ["name", "value"],
            properties: { name: text, value: text },
          },
        },
        lastUpdatedTime: time,
      },
    },
    conditions: {
      type: "array",
      "x-kubernetes-list-type": "map",
      "x-kubernetes-list-map-keys": ["type"],
      items: {
        type: "object",
        required: ["type", "status", "reason", "message", "lastTransitionTime"],
        properties: {
          type: text,
          status: text,
          reason: text,
          message: text,
          observedGeneration: whole,
          lastTransitionTime: time,
        },
      },
    },
  },
};
