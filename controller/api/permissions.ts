import type { AgentServiceService } from "../../gen/goku/v1/agent.pb.js";
import type { ControllerServiceService } from "../../gen/goku/v1/controller.pb.js";
import type { Role } from "../../security/principal.js";

type Asked = keyof typeof ControllerServiceService | keyof typeof AgentServiceService;

/** What each request needs, whatever the wire it comes on. Complete by its type: a new call must be given a role. */
export const PERMISSIONS = {
  submitJob: { role: "operate", action: "submit a job" },
  stopJob: { role: "operate", action: "stop a job" },
  saveJob: { role: "operate", action: "save a job" },
  releaseNode: { role: "operate", action: "release a node" },
  drainNode: { role: "operate", action: "drain a node" },
  diagnose: { role: "operate", action: "examine nodes" },
  listJobs: { role: "read", action: "list jobs" },
  getJob: { role: "read", action: "look at a job" },
  watchEvents: { role: "read", action: "follow events" },
  listNodes: { role: "read", action: "list nodes" },
  getDiagnosis: { role: "read", action: "look at a diagnosis" },
  listCheckpoints: { role: "read", action: "list checkpoints" },
  listPreviews: { role: "read", action: "list previews" },
  getPreviewFile: { role: "read", action: "look at a preview" },
  listIncidents: { role: "read", action: "list incidents" },
  getLogs: { role: "read", action: "read logs" },
  metrics: { role: "read", action: "read metrics" },
  /** Whatever else REST is asked for: its description, or a path that is none. */
  other: { role: "read", action: "look around" },
  session: { role: "agent", action: "speak for a node" },
} as const satisfies Record<Asked | "metrics" | "other", { role: Role; action: string }>;
export type Permission = keyof typeof PERMISSIONS;

/** Permission that a gRPC method needs, by its path `/goku.v1.ControllerService/StopJob`. */
export function permissionOf(path: string): Permission {
  const method = path.slice(path.lastIndexOf("/") + 1);
  const name = method.charAt(0).toLowerCase() + method.slice(1);
  if (!Object.hasOwn(PERMISSIONS, name)) throw new TypeError(`no permission is named for ${path}`);
  return name as Permission;
}
