import type { CheckResult } from "../check_messages.js";

/** A result without its name and time, which whoever runs the check knows. */
export type Finding = Pick<CheckResult, "ok" | "value" | "unit" | "detail">;
