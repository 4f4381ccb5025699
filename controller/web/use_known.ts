import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { Known, Live } from "./live.js";

export const LiveContext = createContext<Live | null>(null);

export function useLive(): Live {
  return useContext(LiveContext)!;
}

/** Everything the page knows, anew whenever that changes. */
export function useKnown(): Known {
  const live = useLive();
  const [known, setKnown] = useState(live.known);
  useEffect(() => {
    setKnown(live.known);
    return live.listen(() => setKnown(live.known));
  }, [live]);
  return known;
}

/** Milliseconds of the wall clock, once a second: ages and silences grow without news. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}
