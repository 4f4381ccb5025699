/** Numbers as people read them. A dash: not known. */
export const UNKNOWN = "–";

export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return UNKNOWN;
  if (seconds < 0.001) return seconds === 0 ? "0 s" : "< 1 ms";
  if (seconds < 1) return `${(1000 * seconds).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const [days, hours] = [Math.floor(whole / 86_400), Math.floor((whole % 86_400) / 3600)];
  const [minutes, rest] = [Math.floor((whole % 3600) / 60), whole % 60];
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${rest} s`;
}

/** Of times gone by, where fractions of a second say nothing. */
export function ago(time: string | null, nowMs: number): string {
  if (time === null) return UNKNOWN;
  const seconds = Math.max(0, (nowMs - Date.parse(time)) / 1000);
  return seconds < 1
    ? "just now"
    : `${duration(seconds < 60 ? Math.floor(seconds) : seconds).replace(/\.0+ s/, " s")} ago`;
}

export function bytes(count: number): string {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  const power = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** power;
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${units[power]}`;
}

/** 1234567 is 1.23 M. */
export function compact(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return UNKNOWN;
  const power = Math.max(0, Math.min(3, Math.floor(Math.log10(Math.max(1, Math.abs(value))) / 3)));
  const scaled = value / 1000 ** power;
  const digits = power === 0 && Number.isInteger(value) ? 0 : scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2;
  return `${scaled.toFixed(digits)}${["", " k", " M", " G"][power]}`;
}

export function whole(value: number): string {
  return value.toLocaleString("en-US").replaceAll(",", "\u202f");
}

export function loss(value: number | null): string {
  return value === null || !Number.isFinite(value) ? UNKNOWN : value.toPrecision(4);
}

export function clock(time: string | null): string {
  return time === null ? UNKNOWN : new Date(time).toLocaleTimeString("en-GB");
}

export function layoutText(layout: { dp_replicate: number; dp_shard: number; sp: number } | null): string {
  return layout === null ? UNKNOWN : `${layout.dp_replicate} × ${layout.dp_shard} × ${layout.sp}`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

/** Colours and movements of a terminal (ECMA-48, 5.4), and other characters that have no shape but tab. */
const UNSEEN = /\p{Cc}\[[0-?]*[ -/]*[@-~]|(?!\t)\p{Cc}/gu;

/** A line as a program wrote it for a terminal, without what only a terminal understands. */
export function plain(line: string): string {
  return line.replace(UNSEEN, "");
}
