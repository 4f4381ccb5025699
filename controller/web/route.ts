import { useEffect, useState } from "preact/hooks";

/** Where the page is, in the address behind #: names and numbers alone, never a credential. */
export type Route = { view: "home" } | { view: "nodes" } | { view: "job"; name: string; rank: number | null };

export function parseRoute(hash: string): Route {
  const [view, name, part, rank] = hash.replace(/^#\/?/, "").split("/");
  if (view === "nodes") return { view };
  if (view !== "jobs" || name === undefined || name === "") return { view: "home" };
  const isRank = part === "ranks" && rank !== undefined && /^\d+$/.test(rank);
  return { view: "job", name: decoded(name), rank: isRank ? Number(rank) : null };
}

export function jobHash(name: string, rank: number | null = null): string {
  return `#/jobs/${encodeURIComponent(name)}${rank === null ? "" : `/ranks/${rank}`}`;
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const onChange = () => setHash(location.hash);
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return parseRoute(hash);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
