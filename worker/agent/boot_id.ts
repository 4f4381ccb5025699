import { readFileSync } from "node:fs";

/** What the kernel calls this machine since it booted; pods and namespaces of one machine read the same. Empty: not known. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return "";
  }
}
