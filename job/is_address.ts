import { isIPv6 } from "node:net";

/** Whether it is host:port: a name, an IPv4 address, or an IPv6 address in brackets, and a port from 1 to 65535. Pure. */
export function isAddress(text: string): boolean {
  const [, bracketed, port] = /^(?:[\w.-]+|\[([^\]]*)\]):(\d{1,5})$/.exec(text) ?? [];
  return (bracketed === undefined || isIPv6(bracketed)) && Number(port) >= 1 && Number(port) <= 65_535;
}
