import type { Diagnosis, JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import { STOP_GRACE } from "../../job/stop_grace.js";
import { type AuditSink, auditEntry, type Caller } from "./audit.js";
import type { ControllerApi } from "./controller_api.js";
import type { Permission } from "./permissions.js";

const ABOUT_NODES: ReadonlySet<Permission> = new Set(["releaseNode", "drainNode", "diagnose"]);

/** All that changes something, whichever wire it comes on: done, and told with who asked and how it ended. */
export class Operations {
  readonly #api: ControllerApi;
  readonly #audit: AuditSink;

  constructor(api: ControllerApi, audit: AuditSink) {
    this.#api = api;
    this.#audit = audit;
  }

  submitJob(caller: Caller, job: unknown, resumeUri: string | null): Promise<JobStatus> {
    const { name } = (job ?? {}) as { name?: unknown };
    const target = typeof name === "string" ? name : "";
    return this.#told(caller, "submitJob", target, () => this.#api.submitJob(job, resumeUri));
  }

  /** @param graceSeconds null: not said. Throws ARGUMENT_INVALID. */
  stopJob(caller: Caller, name: string, graceSeconds: number | null): Promise<JobStatus> {
    return this.#told(caller, "stopJob", this.#named(name), async () => {
      const { secondsMax } = STOP_GRACE;
      if (
        graceSeconds !== null &&
        !(Number.isInteger(graceSeconds) && graceSeconds >= 0 && graceSeconds <= secondsMax)
      ) {
        const found = `found a grace of ${graceSeconds} s, want whole seconds from 0 to ${secondsMax}`;
        throw new GokuError("ARGUMENT_INVALID", `Cannot stop job ${name}: ${found}`);
      }
      return this.#api.stopJob(name, graceSeconds);
    });
  }

  saveJob(caller: Caller, name: string): Promise<void> {
    return this.#told(caller, "saveJob", this.#named(name), () => this.#api.saveJob(name));
  }

  releaseNode(caller: Caller, nodeId: string): Promise<void> {
    return this.#told(caller, "releaseNode", nodeId, () => this.#api.releaseNode(nodeId));
  }

  drainNode(caller: Caller, nodeId: string): Promise<void> {
    return this.#told(caller, "drainNode", nodeId, () => this.#api.drainNode(nodeId));
  }

  /** @param nodeIds none: all */
  diagnose(caller: Caller, nodeIds: string[]): Promise<Diagnosis> {
    const target = nodeIds.length === 0 ? "all nodes" : nodeIds.join(", ");
    return this.#told(caller, "diagnose", target, () => this.#api.diagnose(nodeIds));
  }

  /** An empty name means the newest job, and an id stands for its job's: people read names. */
  #named(name: string): string {
    try {
      return this.#api.getJob(name).status.name;
    } catch {
      return name; // there is none, and the request is about to say so
    }
  }

  async #told<T>(caller: Caller, permission: Permission, target: string, act: () => Promise<T>): Promise<T> {
    const tell = (outcome: Parameters<typeof auditEntry>[2]["outcome"]) => {
      const job = ABOUT_NODES.has(permission) ? "" : target;
      this.#audit(auditEntry(caller, permission, { target, outcome }), job);
    };
    try {
      const result = await act();
      tell("DONE");
      return result;
    } catch (error) {
      tell(toGokuError(error).code);
      throw error;
    }
  }
}
