import type { RgbClip } from "../data/rgb_clip.js";
import {
  COLOUR_NAMES,
  COLOURS,
  type ColourName,
  coverage,
  SHAPE_NAMES,
  type ShapeName,
  shapeDistance,
} from "../data/shapes/vocabulary.js";
import { type FoundFigure, findFigure } from "./find_figure.js";

export interface PictureVerdict {
  colourRight: boolean;
  shapeRight: boolean;
  /** What is seen, whatever was asked; null when it is none that we know. */
  colourFound: ColourName | null;
  shapeFound: ShapeName | null;
  /** Overlap of the figure with the best placed shape of that name, 0..1. */
  shapeOverlap: number;
  /** One line for people. */
  reason: string;
}

/** A hue belongs to a colour when no other is nearer and it is within this many degrees. */
const HUE_DEGREES_MAX = 28;
const SATURATION_MIN = 0.3;
const VALUE_MIN = 0.25;
/** Part of the figure's core that must have the colour. */
const COLOUR_SHARE_MIN = 0.6;
/** A figure that overlaps less than this with every shape is none of them. Circle and square overlap by 0.8 at best. */
const OVERLAP_MIN = 0.72;

/**
 * Decides from the pixels alone whether a picture shows the asked colour and shape. The figure is parted from the background,
 * the hue of its inside is matched to the nearest named colour, and its outline to the best placed, best sized shape of each name.
 */
export function judgePicture(
  picture: RgbClip,
  asked: { colour: ColourName; shape: ShapeName },
): PictureVerdict {
  const seen = recognise(picture);
  const colourRight = seen.colourFound === asked.colour;
  const shapeRight = seen.shapeFound === asked.shape;
  return { ...seen, colourRight, shapeRight };
}

/** What a picture shows, without being told what to look for. */
export function recognise(picture: RgbClip): Omit<PictureVerdict, "colourRight" | "shapeRight"> {
  const figure = findFigure(picture);
  if ("reason" in figure)
    return { colourFound: null, shapeFound: null, shapeOverlap: 0, reason: figure.reason };
  const colourFound = figureColour(picture, figure);
  const overlaps = SHAPE_NAMES.map((shape) => ({
    shape,
    overlap: bestOverlap(figure, shape, picture.width),
  })).sort((a, b) => b.overlap - a.overlap);
  const best = overlaps[0]!;
  const shapeFound = best.overlap >= OVERLAP_MIN ? best.shape : null;
  const reason = `${colourFound ?? "no known colour"}, ${shapeFound ?? "no known shape"} (nearest ${best.shape} ${best.overlap.toFixed(2)}, then ${overlaps[1]!.shape} ${overlaps[1]!.overlap.toFixed(2)})`;
  return { colourFound, shapeFound, shapeOverlap: best.overlap, reason };
}

/** The colour that most of the figure's inside has. */
function figureColour(picture: RgbClip, figure: FoundFigure): ColourName | null {
  const votes = new Map<ColourName, number>();
  for (const i of figure.core) {
    const colour = colourName(picture.data[3 * i]!, picture.data[3 * i + 1]!, picture.data[3 * i + 2]!);
    if (colour) votes.set(colour, (votes.get(colour) ?? 0) + 1);
  }
  const best = [...votes].sort((a, b) => b[1] - a[1])[0];
  return best && best[1] >= COLOUR_SHARE_MIN * figure.core.length ? best[0] : null;
}

/** The named colour of one pixel by its hue, or null when it is too grey, too dark or between two. */
export function colourName(red: number, green: number, blue: number): ColourName | null {
  const highest = Math.max(red, green, blue);
  const lowest = Math.min(red, green, blue);
  if (highest / 255 < VALUE_MIN || (highest - lowest) / highest < SATURATION_MIN) return null;
  const hue = hueDegrees(red, green, blue);
  const apart = (name: ColourName) => {
    const difference = Math.abs(hue - hueDegrees(COLOURS[name][0], COLOURS[name][1], COLOURS[name][2]));
    return Math.min(difference, 360 - difference);
  };
  const nearest = [...COLOUR_NAMES].sort((a, b) => apart(a) - apart(b))[0]!;
  return apart(nearest) <= HUE_DEGREES_MAX ? nearest : null;
}

function hueDegrees(red: number, green: number, blue: number): number {
  const highest = Math.max(red, green, blue);
  const range = highest - Math.min(red, green, blue);
  if (range === 0) return 0;
  const sixth =
    highest === red
      ? (green - blue) / range
      : highest === green
        ? 2 + (blue - red) / range
        : 4 + (red - green) / range;
  return (sixth * 60 + 360) % 360;
}

/** No shape reaches farther than this many radii from its centre along an axis. */
const REACH = 1.35;

/** Greatest overlap (shared area over joint area) of the figure with a shape, over place and size: a search that halves its steps. */
function bestOverlap(figure: FoundFigure, shape: ShapeName, width: number): number {
  let place = { x: figure.centreX, y: figure.centreY, radius: Math.sqrt(figure.area / unitArea(shape)) };
  let best = overlapAt(figure, shape, place, width);
  for (let step = 1; step >= 0.12; step /= 2) {
    for (let improved = true; improved; ) {
      improved = false;
      for (const [dx, dy, dr] of MOVES) {
        const next = { x: place.x + dx * step, y: place.y + dy * step, radius: place.radius + dr * step };
        if (next.radius < 1) continue;
        const overlap = overlapAt(figure, shape, next, width);
        if (overlap <= best) continue;
        best = overlap;
        place = next;
        improved = true;
      }
    }
  }
  return best;
}

const MOVES = [
  [1, 0, 0],
  [-1, 0, 0],
  [0, 1, 0],
  [0, -1, 0],
  [0, 0, 0.5],
  [0, 0, -0.5],
] as const;

function overlapAt(
  figure: FoundFigure,
  shape: ShapeName,
  place: { x: number; y: number; radius: number },
  width: number,
): number {
  const height = figure.alpha.length / width;
  const reach = REACH * place.radius + 1;
  let shared = 0;
  let drawnArea = 0;
  for (let row = Math.max(0, Math.floor(place.y - reach)); row < Math.min(height, place.y + reach); row++) {
    for (
      let column = Math.max(0, Math.floor(place.x - reach));
      column < Math.min(width, place.x + reach);
      column++
    ) {
      const drawn = coverage(shapeDistance(shape, column + 0.5 - place.x, row + 0.5 - place.y, place.radius));
      drawnArea += drawn;
      shared += Math.min(drawn, figure.alpha[row * width + column]!);
    }
  }
  return shared / (drawnArea + figure.area - shared);
}

/** Area of a shape of radius 1, measured on a fine grid. */
function unitArea(shape: ShapeName): number {
  const known = unitAreas.get(shape);
  if (known !== undefined) return known;
  const step = 1 / 64;
  let cells = 0;
  for (let y = -1.5; y < 1.5; y += step)
    for (let x = -1.5; x < 1.5; x += step) if (shapeDistance(shape, x, y, 1) < 0) cells += 1;
  unitAreas.set(shape, cells * step * step);
  return cells * step * step;
}
const unitAreas = new Map<ShapeName, number>();
