import sharp from "sharp";
import { toGokuError } from "../../job/errors.js";
import { textSvg } from "./stroke_font.js";
import { writeWhole } from "./write_whole.js";

export interface LossPoint {
  step: number;
  loss: number;
}

/** Something that happened at a step: a vertical line with a label. */
export interface LossMark {
  step: number;
  label: string;
}

export interface LossCurveOptions {
  title?: string;
  marks?: readonly LossMark[];
}

const WIDTH = 960;
const HEIGHT = 440;
const PLOT = { left: 74, right: 24, top: 54, bottom: 58 };
const COLOURS = {
  raw: "#9db7dd",
  smooth: "#1f5fbf",
  axis: "#5a626d",
  grid: "#e4e7eb",
  text: "#2a3038",
  mark: "#c2571a",
};

/** The chart as PNG, whole or not at all. @throws GokuError STORAGE_FULL, STORAGE_FAILED */
export async function writeLossCurve(
  path: string,
  points: readonly LossPoint[],
  options: LossCurveOptions = {},
): Promise<void> {
  try {
    await writeWhole(
      path,
      await sharp(Buffer.from(lossCurveSvg(points, options)))
        .png()
        .toBuffer(),
    );
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  }
}

/** Loss over steps: every step pale, a smoothed line above it, whole-numbered axes. Non-finite losses leave a gap. */
export function lossCurveSvg(points: readonly LossPoint[], options: LossCurveOptions = {}): string {
  const finite = points.filter(({ loss }) => Number.isFinite(loss)).sort((a, b) => a.step - b.step);
  const steps = niceTicks(0, Math.max(1, ...finite.map(({ step }) => step)), 8);
  const { low, high } = lossRange(finite);
  const losses = niceTicks(low, high, 6);
  const x = scaleOf({ from: 0, to: steps.end }, { from: PLOT.left, to: WIDTH - PLOT.right });
  const y = scaleOf({ from: losses.start, to: losses.end }, { from: HEIGHT - PLOT.bottom, to: PLOT.top });
  const clampY = (loss: number) => Math.max(PLOT.top, Math.min(HEIGHT - PLOT.bottom, y(loss)));
  const line = (values: readonly LossPoint[], colour: string, width: number) =>
    values.length === 0
      ? ""
      : `<polyline fill="none" stroke="${colour}" stroke-width="${width}" stroke-linejoin="round" points="${values.map((p) => `${x(p.step).toFixed(1)},${clampY(p.loss).toFixed(1)}`).join(" ")}"/>`;
  const last = smooth(finite).at(-1);
  const parts = [
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    textSvg(options.title ?? "Training loss", PLOT.left, 32, { size: 14, colour: COLOURS.text }),
    last
      ? textSvg(`step ${last.step}: ${last.loss.toFixed(3)} smoothed`, WIDTH - PLOT.right, 32, {
          size: 10,
          colour: COLOURS.axis,
          anchor: "end",
        })
      : "",
    ...losses.ticks.map((value) => horizontalTick(y(value), value, losses.digits)),
    ...steps.ticks.map((value) => verticalTick(x(value), value)),
    line(finite, COLOURS.raw, 1),
    line(smooth(finite), COLOURS.smooth, 2.5),
    ...(options.marks ?? []).map((mark, i) => markSvg(x(mark.step), mark.label, i)),
    `<path d="M${PLOT.left} ${PLOT.top}V${HEIGHT - PLOT.bottom}H${WIDTH - PLOT.right}" fill="none" stroke="${COLOURS.axis}" stroke-width="1.5"/>`,
    textSvg("step", (PLOT.left + WIDTH - PLOT.right) / 2, HEIGHT - 14, {
      size: 11,
      colour: COLOURS.axis,
      anchor: "middle",
    }),
    textSvg("loss", 24, (PLOT.top + HEIGHT - PLOT.bottom) / 2, {
      size: 11,
      colour: COLOURS.axis,
      anchor: "middle",
      upright: true,
    }),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}">${parts.join("")}</svg>`;
}

/** From the smallest loss to the largest of the second half or twice its median: a wild start does not flatten the rest. */
function lossRange(points: readonly LossPoint[]): { low: number; high: number } {
  if (points.length === 0) return { low: 0, high: 1 };
  const values = points.map(({ loss }) => loss);
  const sorted = [...values].sort((a, b) => a - b);
  const low = sorted[0]!;
  const high = Math.min(sorted.at(-1)!, low + 4 * (sorted[Math.floor(sorted.length * 0.9)]! - low) + 1e-12);
  return high > low
    ? { low, high }
    : { low: low - Math.abs(low) * 0.1 - 0.01, high: high + Math.abs(high) * 0.1 + 0.01 };
}

/** Gaussian average over neighbours on both sides, a sixtieth of the run wide; it does not lag behind as a running mean does. */
export function smooth(points: readonly LossPoint[]): LossPoint[] {
  const deviation = Math.max(1, points.length / 60);
  const reach = Math.ceil(3 * deviation);
  return points.map(({ step }, centre) => {
    let sum = 0;
    let weights = 0;
    for (let i = Math.max(0, centre - reach); i <= Math.min(points.length - 1, centre + reach); i++) {
      const weight = Math.exp(-0.5 * ((i - centre) / deviation) ** 2);
      sum += weight * points[i]!.loss;
      weights += weight;
    }
    return { step, loss: sum / weights };
  });
}

/** Round ticks (1, 2 or 5 times a power of ten) that enclose a range. */
export function niceTicks(
  low: number,
  high: number,
  countMax: number,
): { start: number; end: number; ticks: number[]; digits: number } {
  const rough = (high - low) / countMax;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) ?? 10);
  const start = Math.floor(low / step + 1e-9) * step;
  const count = Math.ceil((high - start) / step - 1e-9);
  const ticks = Array.from({ length: count + 1 }, (_, i) => start + i * step);
  return { start, end: ticks.at(-1)!, ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function scaleOf(
  value: { from: number; to: number },
  pixel: { from: number; to: number },
): (v: number) => number {
  return (v) => pixel.from + ((v - value.from) / (value.to - value.from)) * (pixel.to - pixel.from);
}

function horizontalTick(y: number, value: number, digits: number): string {
  const grid = `<path d="M${PLOT.left} ${y.toFixed(1)}H${WIDTH - PLOT.right}" stroke="${COLOURS.grid}"/>`;
  return (
    grid +
    textSvg(value.toFixed(digits), PLOT.left - 9, y + 5, { size: 10, colour: COLOURS.text, anchor: "end" })
  );
}

function verticalTick(x: number, value: number): string {
  const bottom = HEIGHT - PLOT.bottom;
  const tick = `<path d="M${x.toFixed(1)} ${bottom}v5" stroke="${COLOURS.axis}"/>`;
  return (
    tick +
    textSvg(String(Math.round(value)), x, bottom + 20, { size: 10, colour: COLOURS.text, anchor: "middle" })
  );
}

/** Labels of neighbouring marks stand on different heights, so that they do not cover each other. */
function markSvg(x: number, label: string, index: number): string {
  const line = `<path d="M${x.toFixed(1)} ${PLOT.top}V${HEIGHT - PLOT.bottom}" stroke="${COLOURS.mark}" stroke-width="1.5" stroke-dasharray="5 4"/>`;
  return line + textSvg(label, x + 6, PLOT.top + 14 + (index % 3) * 17, { size: 10, colour: COLOURS.mark });
}
