import { toGokuError } from "../../job/errors.js";
import type { Refusal } from "./job_status.js";
import type { KubernetesLog } from "./kubernetes_shell.js";
import type { JobRef } from "./reconcile_job.js";
import { RETRIABLE_REFUSALS } from "./refusals.js";
import type { TrainingPort } from "./training_port.js";

interface SubmissionsOptions {
  training: TrainingPort;
  wallMs(): number;
  log: KubernetesLog;
  /** One has ended, however. */
  onEnd(): void;
}

/**
 * Jobs on their way from TrainingJobs to the controller, one of an object at a time, each for itself: a submission reads the
 * job's storage, and storage that hangs holds up nobody else.
 */
export class Submissions {
  readonly #options: SubmissionsOptions;
  /** By uid of the TrainingJob; forgotten with it. */
  readonly #refusals = new Map<string, Refusal>();
  readonly #underWay = new Set<string>();

  constructor(options: SubmissionsOptions) {
    this.#options = options;
  }

  /** Uids of those under way now; a copy. */
  underWay(): ReadonlySet<string> {
    return new Set(this.#underWay);
  }

  /** How the last try ended, if it was refused. */
  refusal(uid: string): Refusal | null {
    return this.#refusals.get(uid) ?? null;
  }

  forgetOthers(living: ReadonlySet<string>): void {
    for (const uid of this.#refusals.keys()) if (!living.has(uid)) this.#refusals.delete(uid);
  }

  begin(job: JobRef, spec: Record<string, unknown>, resumeUri: string | null): void {
    if (this.#underWay.has(job.uid)) return;
    this.#underWay.add(job.uid);
    void this.#submit(job, spec, resumeUri).finally(() => {
      this.#underWay.delete(job.uid);
      this.#options.onEnd();
    });
  }

  /** Never rejects. */
  async #submit(job: JobRef, spec: Record<string, unknown>, resumeUri: string | null): Promise<void> {
    const { training, log, wallMs } = this.#options;
    try {
      const jobId = await training.submit(job.uid, spec, resumeUri);
      this.#refusals.delete(job.uid);
      log.info({ job: job.name, jobId }, `TrainingJob ${job.name} was submitted`);
    } catch (error) {
      const { code, message } = toGokuError(error);
      if (code === "NOT_LEADER" || code === "STORE_UNAVAILABLE") return; // whoever leads next looks again
      const final = !RETRIABLE_REFUSALS.has(code);
      this.#refusals.set(job.uid, { code, message, atMs: wallMs(), final });
      log.warn({ job: job.name, code }, message);
    }
  }
}
