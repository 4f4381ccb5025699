import { isIPv4 } from "node:net";

/** Whether only this machine reaches an address to listen on. Any name but localhost may be any address. Pure. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  return bare === "localhost" || bare === "::1" || (isIPv4(bare) && bare.startsWith("127."));
}

/** Whether listening there means every address of the machine, none of which it names. Pure. */
export function isEveryAddress(host: string): boolean {
  return ["0.0.0.0", "::", "[::]"].includes(host);
}

/** The host of host:port, without the brackets of IPv6. Pure. */
export function hostOf(address: string): string {
  return address.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
}

/** host:port, with brackets where the host is an IPv6 address. Pure. */
export function joinAddress(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}
