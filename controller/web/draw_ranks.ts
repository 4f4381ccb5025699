import type { Ranks } from "./api.js";
import { cellAt, type Grid } from "./grid_geometry.js";
import { colour } from "./theme.js";

/** What a cell's colour says. */
export type RankColouring = "health" | "slowness";

/** Health in the order of its legend, worst last. */
export const HEALTHS: readonly { health: Ranks["health"][number]; text: string }[] = [
  { health: "training", text: "training" },
  { health: "waiting", text: "waiting" },
  { health: "slow", text: "slow" },
  { health: "lost", text: "lost" },
  { health: "failed", text: "failed" },
];

/** Shades by slowness, each below its bound, as `gokuctl status` has them; the last has none. */
export const SHADES: readonly { name: string; below: number; text: string }[] = [
  { name: "heat-1", below: 1.05, text: "below 1.05 ×" },
  { name: "heat-2", below: 1.15, text: "1.15 ×" },
  { name: "heat-3", below: 1.3, text: "1.3 ×" },
  { name: "heat-4", below: Number.POSITIVE_INFINITY, text: "above" },
];
const UNKNOWN_SHADE = "heat-0";

/** Name of the colour of one rank, as in the style sheet. */
export function colourOf(ranks: Ranks, rank: number, by: RankColouring): string {
  if (by === "health") return `health-${ranks.health[rank]}`;
  const slowness = ranks.slowness[rank] ?? null;
  return slowness === null ? UNKNOWN_SHADE : SHADES.find(({ below }) => slowness < below)!.name;
}

/** All cells, one colour after another, then marks that need no colour to be told, numbers and names where there is room. */
export function drawRanks(
  canvas: HTMLCanvasElement,
  { ranks, grid, by }: { ranks: Ranks; grid: Grid; by: RankColouring },
): void {
  const ratio = devicePixelRatio;
  const [width, height] = [Math.round(grid.width * ratio), Math.round(grid.height * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.style.width = `${grid.width}px`;
    canvas.style.height = `${grid.height}px`;
  }
  const pen = canvas.getContext("2d")!;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, grid.width, grid.height);
  const { cell } = grid;
  const cells = new Map<string, number[]>();
  for (let rank = 0; rank < ranks.node.length; rank++) {
    const name = colourOf(ranks, rank, by);
    const same = cells.get(name);
    if (same) same.push(rank);
    else cells.set(name, [rank]);
  }
  const radius = cell >= 14 ? 4 : 0;
  for (const [name, of] of cells) {
    pen.fillStyle = colour(`--${name}`);
    pen.beginPath();
    for (const rank of of) {
      const { x, y } = cellAt(grid, rank);
      if (radius > 0) pen.roundRect(x, y, cell, cell, radius);
      else pen.rect(x, y, cell, cell);
    }
    pen.fill();
  }
  if (by === "health" && cell >= 7) drawSigns(pen, ranks, grid);
  if (cell >= 22) drawTexts(pen, ranks, grid, by);
}

/** A cross for what failed, a stroke for what is lost, a dot for what is slow. */
function drawSigns(pen: CanvasRenderingContext2D, ranks: Ranks, grid: Grid): void {
  const { cell } = grid;
  const inset = cell >= 22 ? 0.62 * cell : 0.25 * cell;
  const size = cell >= 22 ? 0.24 * cell : 0.5 * cell;
  pen.strokeStyle = pen.fillStyle = colour("--sign");
  pen.lineWidth = cell >= 22 ? 2 : 1.2;
  pen.beginPath();
  for (const [rank, health] of ranks.health.entries()) {
    if (health === "training" || health === "waiting") continue;
    const at = cellAt(grid, rank);
    const [x, y] = [at.x + inset, at.y + (cell >= 22 ? 0.14 * cell : inset)];
    if (health === "failed") {
      pen.moveTo(x, y);
      pen.lineTo(x + size, y + size);
    }
    if (health === "failed" || health === "lost") {
      pen.moveTo(x + size, y);
      pen.lineTo(x, y + size);
    }
    if (health === "slow") pen.rect(x + size / 4, y + size / 4, size / 2, size / 2);
  }
  pen.stroke();
}

function drawTexts(pen: CanvasRenderingContext2D, ranks: Ranks, grid: Grid, by: RankColouring): void {
  const { cell, blocks, blockWidth, blockHeight, blocksPerRow } = grid;
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  pen.font = `600 ${cell >= 36 ? 13 : 10}px system-ui, sans-serif`;
  for (const [rank] of ranks.node.entries()) {
    const { x, y } = cellAt(grid, rank);
    const slowness = ranks.slowness[rank] ?? null;
    const text = by === "slowness" && cell >= 36 && slowness !== null ? slowness.toFixed(2) : String(rank);
    pen.fillStyle = colour(`--on-${colourOf(ranks, rank, by)}`);
    pen.fillText(text, x + cell / 2, y + cell / 2 + 1);
  }
  pen.textAlign = "left";
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("--muted");
  for (const [block] of blocks.entries()) {
    const [x, y] = [(block % blocksPerRow) * blockWidth, Math.floor(block / blocksPerRow) * blockHeight];
    pen.fillText(ranks.nodes[block] ?? "", x, y + 7, blockWidth - 6);
  }
}
