import type { Diagnosis } from "../gen/goku/v1/controller.pb.js";
import { GokuError } from "../job/errors.js";

/** Between two looks at a diagnosis that is under way. */
const LOOK_MS = 200;

/**
 * What came of the diagnosis that was asked for.
 * @param look the newest diagnosis of the controller
 * @throws NOT_FOUND the newest is another one by now, for example since another controller leads
 */
export async function followDiagnosis(
  asked: Diagnosis,
  look: () => Promise<Diagnosis>,
  lookMs = LOOK_MS,
): Promise<Diagnosis> {
  let diagnosis = asked;
  while (!diagnosis.done) {
    await new Promise((resolve) => setTimeout(resolve, lookMs));
    diagnosis = await look();
    // A controller that takes over counts from 1 again.
    if (diagnosis.id !== asked.id || diagnosis.startedAt?.getTime() !== asked.startedAt?.getTime())
      throw new GokuError(
        "NOT_FOUND",
        `Cannot tell what diagnosis ${nameOf(asked)} found: the controller shows ${nameOf(diagnosis)}, want the same one; run gokuctl diagnose again`,
      );
  }
  return diagnosis;
}

function nameOf({ id, startedAt }: Diagnosis): string {
  return `${id} of ${startedAt?.toISOString() ?? "no time"}`;
}
