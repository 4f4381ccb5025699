export type Theme = "auto" | "light" | "dark";

const KEY = "goku.theme";
const changed = new EventTarget();
const NEXT: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };

/** As chosen here; auto: as the system says. */
export function theme(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

const system = matchMedia("(prefers-color-scheme: dark)");

export function applyTheme(): void {
  const chosen = theme();
  document.documentElement.dataset.theme = chosen === "auto" ? (system.matches ? "dark" : "light") : chosen;
  changed.dispatchEvent(new Event("change"));
}

export function nextTheme(): Theme {
  const next = NEXT[theme()];
  localStorage.setItem(KEY, next);
  applyTheme();
  return next;
}

/** Canvases have no style sheet: they draw anew when colours change. */
export function onColours(callback: () => void): () => void {
  changed.addEventListener("change", callback);
  return () => changed.removeEventListener("change", callback);
}

system.addEventListener("change", applyTheme);

/** Value of a custom property now, such as "--loss". */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
