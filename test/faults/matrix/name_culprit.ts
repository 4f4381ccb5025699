import type { Incident } from "../../../gen/goku/v1/controller.pb.js";
import type { Culprit, Named } from "./cell.js";
import type { LogLine } from "./member_logs.js";

export interface TellingRecords {
  /** Those that were opened after the fault. */
  incidents: readonly Incident[];
  /** First thing told of it; empty: nothing was. */
  news: string;
  /** Why the generation was formed that came last; empty: none was. */
  formed: string;
  /** Of all members, from the fault until what it took was given back. */
  lines: readonly LogLine[];
}

/** Nobody but the one agent that is cut off loses a controller that is there. */
const AGENTS_MIN = 2;

/** Whom the product's records name. Pure. */
export function nameCulprit({ incidents, news, formed, lines }: TellingRecords): Named {
  const texts = [...incidents.filter(({ nodeId }) => nodeId === "").map(({ what }) => what), news, formed];
  const told = texts.map(namesIn);
  // The first alone: until another leads, calls to members that live end late, too, and for that reason.
  const etcd = lines
    .filter(isOfStore)
    .map(({ text }) => ETCD_AT.exec(text)![1]!)
    .slice(0, 1);
  return {
    ranks: unique([
      ...incidents.flatMap(({ rank }) => (rank === undefined ? [] : [rank])),
      ...told.flatMap(({ ranks }) => ranks),
    ]),
    nodes: unique([
      ...incidents.flatMap(({ nodeId }) => (nodeId === "" ? [] : [nodeId])),
      ...told.flatMap(({ nodes }) => nodes),
    ]).sort(),
    // With etcd gone no controller leads: that agents miss theirs is what follows.
    controller: etcd.length === 0 && (missController(lines).length >= AGENTS_MIN || lines.some(isTakeover)),
    etcd,
  };
}

const ETCD_AT = /\betcd at ([\d.]+:\d+)/;

export function isOfStore({ member, text }: LogLine): boolean {
  return isController(member) && ETCD_AT.test(text);
}

/** A standby leads: it says so of whoever led before. */
export function isTakeover({ member, text }: LogLine): boolean {
  return isController(member) && member !== "controller" && LEADS.test(text);
}

export const LEADS = /leads (term \d+)/;

export function isController(member: string): boolean {
  return member.startsWith("controller");
}

/** The first line of each agent that says that it has none. */
export function missController(lines: readonly LogLine[]): LogLine[] {
  const missing = lines.filter(({ member, text }) => !isController(member) && text === "no controller");
  return missing.filter((line, i) => missing.findIndex(({ member }) => member === line.member) === i);
}

function namesIn(text: string): { ranks: number[]; nodes: string[] } {
  return {
    ranks: [...text.matchAll(/\brank (\d+) on node-\w/g)].map(([, rank]) => Number(rank)),
    nodes: [...text.matchAll(/\bnode-\w\b/g)].map(([node]) => node),
  };
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

/** What is wrong with whom they name; null: nothing. Pure. */
export function misnamed(named: Named, culprit: Culprit, rankNodes: readonly string[]): string | null {
  const found = namedText(named);
  const wanted = culpritText(culprit);
  const refused = () => `named ${found === "" ? "nobody" : found}, the fault is in ${wanted}`;
  switch (culprit.kind) {
    case "rank": {
      const only = { ...NOBODY, ranks: [culprit.rank], nodes: [culprit.node] };
      return found === namedText(only) ? null : refused();
    }
    case "nodes": {
      const elsewhere = named.ranks.some((rank) => !culprit.nodes.includes(rankNodes[rank] ?? ""));
      const only = { ...NOBODY, ranks: named.ranks, nodes: [...culprit.nodes].sort() };
      return !elsewhere && found === namedText(only) ? null : refused();
    }
    case "controller":
      return found === namedText({ ...NOBODY, controller: true }) ? null : refused();
    case "etcd": {
      // Without a quorum each member that is left has nothing to say either.
      const wrong = named.etcd.filter((member) => culprit.quorum && !culprit.members.includes(member));
      const only = { ...NOBODY, etcd: named.etcd };
      return found !== "" && found === namedText(only) && wrong.length === 0 ? null : refused();
    }
    case "nothing":
      return found === "" ? null : refused();
  }
}

const NOBODY: Named = { ranks: [], nodes: [], controller: false, etcd: [] };

/** For people; empty: nobody. */
export function namedText({ ranks, nodes, controller, etcd }: Named): string {
  return [
    ...ranks.map((rank) => `rank ${rank}`),
    ...(nodes.length > 0 ? [nodes.join(" and ")] : []),
    ...(controller ? ["the controller"] : []),
    ...(etcd.length > 0 ? [`etcd at ${etcd.join(", ")}`] : []),
  ].join(", ");
}

function culpritText(culprit: Culprit): string {
  switch (culprit.kind) {
    case "rank":
      return namedText({ ...NOBODY, ranks: [culprit.rank], nodes: [culprit.node] });
    case "nodes":
      return namedText({ ...NOBODY, nodes: culprit.nodes });
    case "controller":
      return namedText({ ...NOBODY, controller: true });
    case "etcd":
      return namedText({ ...NOBODY, etcd: culprit.members });
    case "nothing":
      return "nothing that is to be named";
  }
}
