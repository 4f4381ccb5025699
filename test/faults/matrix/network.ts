import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";

/**
 * A network of its own for the members of a cluster: each is a network namespace with one cable to a router, which is a
 * namespace, too. What is cut is cut in the router, which drops packets and tells nobody, as a broken switch does: neither
 * side's own routes change, and connections that stand stay silent.
 *
 * Needs root and Linux's `ip`. Everything carries this process's id in its name and goes with `close`; what a process
 * that was killed left behind goes with the next that is opened.
 */
export class Network {
  readonly #prefix: string;
  /** First three bytes of every address; 198.18.0.0/15 is kept for tests of networks. */
  readonly #subnet: string;
  readonly #places = new Map<string, number>();
  #closed = false;

  private constructor(pid: number) {
    this.#prefix = `goku-${pid}`;
    this.#subnet = `198.${18 + ((pid >> 8) & 1)}.${pid & 255}`;
  }

  /** Null, with the reason, where namespaces cannot be made. */
  static open(members: readonly string[]): { network: Network } | { network: null; reason: string } {
    const network = new Network(process.pid);
    process.once("exit", () => network.close());
    try {
      removeAbandoned();
      network.#build(members);
      return { network };
    } catch (error) {
      network.close();
      return { network: null, reason: (error as Error).message };
    }
  }

  /** Of a member, in the network. */
  host(member: string): string {
    return this.#address(this.#placeOf(member), 2);
  }

  /** Command that runs another one at a member's place. */
  enter(member: string): string[] {
    return ["ip", "netns", "exec", this.#name(this.#placeOf(member))];
  }

  /** From now on nothing that `from` sends reaches `to`; what `to` sends still arrives. */
  cutOneWay(from: string, to: string): void {
    this.#router("rule", "add", "from", this.host(from), "to", this.host(to), "blackhole");
  }

  cut(one: string, other: string): void {
    this.cutOneWay(one, other);
    this.cutOneWay(other, one);
  }

  /** From everybody. */
  cutOff(member: string): void {
    this.#router("rule", "add", "from", this.host(member), "blackhole");
    this.#router("rule", "add", "to", this.host(member), "blackhole");
  }

  /** All cuts end. */
  heal(): void {
    while (run("ip", ["-n", this.#routerName, "rule", "del", "blackhole"]) === null);
  }

  /** Idempotent. Connections of processes that still run in it break. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const place of this.#places.values()) run("ip", ["netns", "del", this.#name(place)]);
    run("ip", ["link", "del", this.#cable("m", this.#places.size)]);
    run("ip", ["netns", "del", this.#routerName]); // the other cables go with their ends
  }

  #build(members: readonly string[]): void {
    must("ip", ["netns", "add", this.#routerName]);
    must("ip", ["netns", "exec", this.#routerName, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    for (const [place, member] of members.entries()) {
      this.#places.set(member, place);
      must("ip", ["netns", "add", this.#name(place)]);
      this.#lay(place, this.#name(place));
      must("ip", ["-n", this.#name(place), "link", "set", "lo", "up"]);
      must("ip", ["-n", this.#name(place), "route", "add", "default", "via", this.#address(place, 1)]);
    }
    // This process is on the network as well, to talk to the controller.
    const own = members.length;
    this.#lay(own, null);
    must("ip", ["route", "add", `${this.#subnet}.0/24`, "via", this.#address(own, 1)]);
  }

  /** A cable from the router to a namespace, null: to this process's. */
  #lay(place: number, namespace: string | null): void {
    const [near, far] = [this.#cable("r", place), this.#cable("m", place)];
    must("ip", ["-n", this.#routerName, "link", "add", near, "type", "veth", "peer", "name", far]);
    this.#router("addr", "add", `${this.#address(place, 1)}/30`, "dev", near);
    this.#router("link", "set", near, "up");
    this.#router("link", "set", far, "netns", namespace ?? String(process.pid));
    const there = namespace === null ? [] : ["-n", namespace];
    must("ip", [...there, "addr", "add", `${this.#address(place, 2)}/30`, "dev", far]);
    must("ip", [...there, "link", "set", far, "up"]);
  }

  get #routerName(): string {
    return `${this.#prefix}-router`;
  }

  #router(...args: string[]): void {
    must("ip", ["-n", this.#routerName, ...args]);
  }

  #placeOf(member: string): number {
    const place = this.#places.get(member);
    if (place === undefined)
      throw new RangeError(`no place for "${member}": have ${[...this.#places.keys()].join(", ")}`);
    return place;
  }

  #name(place: number): string {
    return `${this.#prefix}-${place}`;
  }

  /** Names of links have 15 bytes at most. */
  #cable(side: string, place: number): string {
    return `gk${process.pid}${side}${place}`;
  }

  #address(place: number, end: number): string {
    return `${this.#subnet}.${4 * place + end}`;
  }
}

/** Namespaces of processes that are no more. */
function removeAbandoned(): void {
  if (!existsSync("/run/netns")) return;
  for (const name of readdirSync("/run/netns")) {
    const pid = /^goku-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) run("ip", ["netns", "del", name]);
  }
}

/** Null: it succeeded; else what it said. */
function run(command: string, args: readonly string[]): string | null {
  const done = spawnSync(command, args, { encoding: "utf8" });
  if (done.status === 0) return null;
  return `${command} ${args.join(" ")}: ${(done.stderr ?? done.error?.message ?? "").trim()}`;
}

function must(command: string, args: readonly string[]): void {
  const refused = run(command, args);
  if (refused !== null) throw new Error(refused);
}
