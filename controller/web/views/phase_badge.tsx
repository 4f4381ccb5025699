import type { Job } from "../api.js";

export function phaseText(phase: Job["phase"]): string {
  return phase.charAt(0) + phase.slice(1).toLowerCase();
}

export function PhaseBadge({ phase }: { phase: Job["phase"] }) {
  return (
    <span class={`badge ${phase.toLowerCase()}`} data-phase={phase}>
      {phaseText(phase)}
    </span>
  );
}
