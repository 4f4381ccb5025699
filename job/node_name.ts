/** Also the name of a folder and part of log lines: letters, digits and ._- in between, at most 128. Pure. */
export function isNodeName(name: string): boolean {
  return /^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/.test(name);
}

/** What fails together, such as a rack; may be empty. Pure. */
export function isFailureDomain(name: string): boolean {
  return /^[A-Za-z0-9._/:-]{0,128}$/.test(name);
}
