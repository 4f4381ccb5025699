import type { z } from "zod";
import type { AS_OF_HEADER, STORE_SILENT_HEADER } from "../api/as_of.js";
import type {
  checkpointSchema,
  eventSchema,
  incidentSchema,
  jobStatusSchema,
  logLineSchema,
  nodeSchema,
  previewSchema,
  problemSchema,
  stepSchema,
} from "../api/schemas.js";
import type { curvesSchema, meSchema, rankSchema, ranksSchema } from "../api/view_schemas.js";

/** REST's answers, typed by the schemas that REST is made from: what is renamed there does not compile here. */
export type Job = z.infer<typeof jobStatusSchema>;
export type Node = z.infer<typeof nodeSchema>;
export type Incident = z.infer<typeof incidentSchema>;
export type Checkpoint = z.infer<typeof checkpointSchema>;
export type LogLine = z.infer<typeof logLineSchema>;
export type ClusterEvent = z.infer<typeof eventSchema>;
export type Step = z.infer<typeof stepSchema>;
export type Curves = z.infer<typeof curvesSchema>;
export type Ranks = z.infer<typeof ranksSchema>;
export type Rank = z.infer<typeof rankSchema>;
export type Me = z.infer<typeof meSchema>;
export type Preview = z.infer<typeof previewSchema>;
export type Problem = z.infer<typeof problemSchema>;

/** Answers from memory: as of when, and since when the store has been silent; null: it is not, and nobody leads just now. */
export interface AsOf {
  at: string;
  storeSilentSince: string | null;
}

const HEADERS: { asOf: typeof AS_OF_HEADER; silent: typeof STORE_SILENT_HEADER } = {
  asOf: "goku-as-of",
  silent: "goku-store-silent-since",
};

/** Null: the answer is of now. */
export function readAsOf(headers: Headers): AsOf | null {
  const at = headers.get(HEADERS.asOf);
  return at === null ? null : { at, storeSilentSince: headers.get(HEADERS.silent) };
}
