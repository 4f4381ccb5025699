import type { RgbClip } from "../data/rgb_clip.js";

type Rgb = [number, number, number];

/** The largest thing that stands out from the background of a picture. */
export interface FoundFigure {
  /** How much of each pixel it covers, 0..1; row-major. */
  alpha: Float32Array;
  /** Pixels that lie wholly inside. */
  core: number[];
  colour: Rgb;
  background: Rgb;
  /** Covered area in pixels. */
  area: number;
  centreX: number;
  centreY: number;
}

/** Distances below this, of 441 between black and white, are shading, not a figure. */
const CONTRAST_MIN = 48;
/** A figure fills between these parts of the picture. */
const AREA_PART_MIN = 0.015;
const AREA_PART_MAX = 0.7;
/** One figure holds at least this part of everything that stands out; noise is scattered. */
const SHARE_MIN = 0.6;

/** Finds the figure in the first frame of a clip by its contrast to the border, or says why there is none. */
export function findFigure(picture: RgbClip): FoundFigure | { reason: string } {
  const { width, height } = picture;
  const background = borderColour(picture);
  const distance = Float32Array.from({ length: width * height }, (_, i) =>
    colourDistance(pixelAt(picture, i), background),
  );
  const threshold = Math.max(CONTRAST_MIN, otsu(distance));
  const mask = Uint8Array.from(distance, (value) => (value > threshold ? 1 : 0));
  const standing = mask.reduce((sum, value) => sum + value, 0);
  if (standing < AREA_PART_MIN * mask.length) return { reason: "nothing stands out from the background" };
  const component = largestComponent(mask, width);
  if (component.length < SHARE_MIN * standing) {
    return {
      reason: `what stands out is scattered: the largest piece is ${component.length} of ${standing} pixels`,
    };
  }
  if (component.length > AREA_PART_MAX * mask.length)
    return { reason: "what stands out fills the whole picture" };
  if (component.length < AREA_PART_MIN * mask.length) return { reason: "what stands out is only specks" };
  return measure(picture, component, background);
}

function measure(picture: RgbClip, component: readonly number[], background: Rgb): FoundFigure {
  const { width, height } = picture;
  const inside = new Uint8Array(width * height);
  for (const i of component) inside[i] = 1;
  const eroded = component.filter((i) => neighbours(i, width, height).every((n) => inside[n] === 1));
  const core = eroded.length >= 4 ? eroded : [...component];
  const colour = medianColour(core.map((i) => pixelAt(picture, i)));
  const alpha = new Float32Array(width * height);
  let area = 0;
  let sumX = 0;
  let sumY = 0;
  const around = new Set(component.flatMap((i) => [i, ...neighbours(i, width, height)]));
  for (const i of around) {
    const value =
      eroded.length > 0 && inside[i] === 1 && core.includes(i)
        ? 1
        : mixedPart(pixelAt(picture, i), background, colour);
    alpha[i] = value;
    area += value;
    sumX += value * ((i % width) + 0.5);
    sumY += value * (Math.floor(i / width) + 0.5);
  }
  return { alpha, core, colour, background, area, centreX: sumX / area, centreY: sumY / area };
}

/** How far a pixel has gone from the background to the figure's colour, 0..1. */
function mixedPart(pixel: Rgb, background: Rgb, colour: Rgb): number {
  let along = 0;
  let length = 0;
  for (let channel = 0; channel < 3; channel++) {
    const step = colour[channel]! - background[channel]!;
    along += (pixel[channel]! - background[channel]!) * step;
    length += step * step;
  }
  return Math.max(0, Math.min(1, along / length));
}

/** Median of each channel over a border two pixels wide. */
function borderColour(picture: RgbClip): Rgb {
  const { width, height } = picture;
  const border: Rgb[] = [];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (row < 2 || column < 2 || row >= height - 2 || column >= width - 2)
        border.push(pixelAt(picture, row * width + column));
    }
  }
  return medianColour(border);
}

function medianColour(colours: readonly Rgb[]): Rgb {
  const median = (channel: 0 | 1 | 2) => {
    const values = colours.map((colour) => colour[channel]).sort((a, b) => a - b);
    return values[Math.floor(values.length / 2)]!;
  };
  return [median(0), median(1), median(2)];
}

function pixelAt({ data }: RgbClip, i: number): Rgb {
  return [data[3 * i]!, data[3 * i + 1]!, data[3 * i + 2]!];
}

function colourDistance(a: Rgb, b: Rgb): number {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

function neighbours(i: number, width: number, height: number): number[] {
  const column = i % width;
  const found: number[] = [];
  if (column > 0) found.push(i - 1);
  if (column < width - 1) found.push(i + 1);
  if (i >= width) found.push(i - width);
  if (i < width * (height - 1)) found.push(i + width);
  return found;
}

/** Pixels of the largest piece that hangs together over edges. */
function largestComponent(mask: Uint8Array, width: number): number[] {
  const height = mask.length / width;
  const seen = new Uint8Array(mask.length);
  let best: number[] = [];
  for (let start = 0; start < mask.length; start++) {
    if (mask[start] === 0 || seen[start] === 1) continue;
    const piece = [start];
    seen[start] = 1;
    for (let at = 0; at < piece.length; at++) {
      for (const next of neighbours(piece[at]!, width, height)) {
        if (mask[next] === 0 || seen[next] === 1) continue;
        seen[next] = 1;
        piece.push(next);
      }
    }
    if (piece.length > best.length) best = piece;
  }
  return best;
}

/** The threshold that best parts values into two classes (Otsu 1979), over 64 bins. */
function otsu(values: Float32Array): number {
  const bins = 64;
  const highest = values.reduce((a, b) => Math.max(a, b), 1e-6);
  const counts = new Float64Array(bins);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value / highest) * bins))]! += 1;
  const total = values.length;
  const sumAll = counts.reduce((sum, count, bin) => sum + count * bin, 0);
  let below = 0;
  let sumBelow = 0;
  let bestSpread = -1;
  let bestBin = 0;
  for (let bin = 0; bin < bins - 1; bin++) {
    below += counts[bin]!;
    sumBelow += counts[bin]! * bin;
    if (below === 0 || below === total) continue;
    const spread = below * (total - below) * (sumBelow / below - (sumAll - sumBelow) / (total - below)) ** 2;
    if (spread > bestSpread) {
      bestSpread = spread;
      bestBin = bin;
    }
  }
  return ((bestBin + 1) / bins) * highest;
}
