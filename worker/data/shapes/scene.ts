import { PhiloxRandom } from "../../../job/philox.js";
import type { RgbClip } from "../rgb_clip.js";
import {
  COLOUR_NAMES,
  COLOURS,
  type ColourName,
  coverage,
  DIRECTION_NAMES,
  DIRECTIONS,
  SHAPE_NAMES,
  type ShapeName,
  shapeDistance,
} from "./vocabulary.js";

/** Random stream of this data set; the seed is the data set's own, never a job's. */
const SHAPES_STREAM = 0x5ea9;

export interface Figure {
  shape: ShapeName;
  colour: readonly [number, number, number];
  /** Centre in the first frame, pixels. */
  x: number;
  y: number;
  radius: number;
  /** Pixels per frame. */
  velocityX: number;
  velocityY: number;
}

export interface Scene {
  caption: string;
  size: number; // pixels of each side
  frames: number;
  /** sRGB grey at the top and at the bottom. */
  backgroundTop: number;
  backgroundBottom: number;
  figures: Figure[];
}

export type SceneKind = "single" | "pair" | "moving";

/**
 * Scene `number` of a kind: colours, shapes and relations are dealt in turn, so that each combination is equally common,
 * and the rest (place, size, background) is drawn at random from (seed, kind, number).
 */
export function makeScene(options: {
  kind: SceneKind;
  number: number;
  seed: number;
  size: number;
  frames: number;
}): Scene {
  const { kind, number, size } = options;
  const random = new PhiloxRandom(
    options.seed,
    SHAPES_STREAM + ["single", "pair", "moving"].indexOf(kind),
    number,
  );
  // shapes and colours turn at coprime-like rates: 24 scenes hold every pair once
  const shape = SHAPE_NAMES[number % SHAPE_NAMES.length]!;
  const colour = COLOUR_NAMES[Math.floor(number / SHAPE_NAMES.length) % COLOUR_NAMES.length]!;
  const cycle = Math.floor(number / (SHAPE_NAMES.length * COLOUR_NAMES.length));
  const backgroundTop = random.between(20, 64);
  const backgroundBottom = backgroundTop + random.between(-8, 8);
  const scene = { size, frames: kind === "moving" ? options.frames : 1, backgroundTop, backgroundBottom };
  if (kind === "single") return { ...scene, ...single(random, shape, colour, size) };
  if (kind === "moving") return { ...scene, ...moving(random, shape, colour, size, cycle, options.frames) };
  return { ...scene, ...pair(random, shape, colour, size) };
}

type Content = Pick<Scene, "caption" | "figures">;

/**
 * Lengths are given for a picture of this side and scaled to others. Figures stand on a raster of 4 pixels, the size of a latent:
 * so each looks the same in many pictures, and a small model learns clean edges from few of them.
 */
const SIDE = 32;
const RASTER = [12, 16, 20] as const;

function single(random: PhiloxRandom, shape: ShapeName, colour: ColourName, size: number): Content {
  const unit = size / SIDE;
  // the caption tells the size, so that a plain one asks for one thing only
  const [word, radius] = random.pick([
    ["", 8],
    ["", 8],
    ["", 8],
    ["small ", 6],
    ["large ", 10],
  ] as const);
  // most stand in the middle; the largest have no room elsewhere
  const place = () => (radius === 10 || random.uniform() < 0.6 ? 16 : random.pick(RASTER)) * unit;
  const figure = still(random, shape, colour, { x: place(), y: place(), radius: radius * unit });
  return { caption: `a ${word}${colour} ${shape}`, figures: [figure] };
}

function pair(random: PhiloxRandom, shape: ShapeName, colour: ColourName, size: number): Content {
  const unit = size / SIDE;
  const otherShape = random.pick(SHAPE_NAMES);
  const otherColour = random.pick(COLOUR_NAMES.filter((name) => name !== colour));
  const relation = random.pick(["left of", "right of", "above", "below"] as const);
  const horizontal = relation === "left of" || relation === "right of";
  const first = relation === "left of" || relation === "above" ? 8 : 24;
  const figure = (name: ShapeName, of: ColourName, along: number) => {
    const across = random.pick(RASTER) * unit;
    const place = horizontal ? { x: along * unit, y: across } : { x: across, y: along * unit };
    return still(random, name, of, { ...place, radius: random.pick([5, 5.5]) * unit });
  };
  return {
    caption: `a ${colour} ${shape} ${relation} a ${otherColour} ${otherShape}`,
    figures: [figure(shape, colour, first), figure(otherShape, otherColour, SIDE - first)],
  };
}

function moving(
  random: PhiloxRandom,
  shape: ShapeName,
  colour: ColourName,
  size: number,
  cycle: number,
  frames: number,
): Content {
  const unit = size / SIDE;
  const direction = DIRECTION_NAMES[cycle % DIRECTION_NAMES.length]!;
  const [dx, dy] = DIRECTIONS[direction];
  const path = random.pick([8, 12]) * unit; // from the first frame to the last
  const speed = frames > 1 ? path / (frames - 1) : 0;
  const side = random.pick(RASTER) * unit;
  const figure = still(random, shape, colour, {
    x: dx === 0 ? side : size / 2 - (dx * path) / 2,
    y: dy === 0 ? side : size / 2 - (dy * path) / 2,
    radius: random.pick([6, 7]) * unit,
  });
  return {
    caption: `a ${colour} ${shape} moving ${direction}`,
    figures: [{ ...figure, velocityX: dx * speed, velocityY: dy * speed }],
  };
}

function still(
  random: PhiloxRandom,
  shape: ShapeName,
  colour: ColourName,
  place: { x: number; y: number; radius: number },
): Figure {
  const light = random.between(0.95, 1.05);
  const [red, green, blue] = COLOURS[colour];
  return { shape, colour: [red * light, green * light, blue * light], ...place, velocityX: 0, velocityY: 0 };
}

/** Draws every frame with one-pixel soft edges. */
export function renderScene(scene: Scene): RgbClip {
  const { size, frames } = scene;
  const data = new Uint8Array(frames * size * size * 3);
  const pixel: [number, number, number] = [0, 0, 0];
  for (let frame = 0; frame < frames; frame++) {
    for (let row = 0; row < size; row++) {
      const grey =
        scene.backgroundTop + ((scene.backgroundBottom - scene.backgroundTop) * row) / Math.max(1, size - 1);
      for (let column = 0; column < size; column++) {
        pixel.fill(grey);
        for (const figure of scene.figures) blend(pixel, figure, frame, column + 0.5, row + 0.5);
        const at = ((frame * size + row) * size + column) * 3;
        for (let channel = 0; channel < 3; channel++)
          data[at + channel] = Math.max(0, Math.min(255, Math.round(pixel[channel]!)));
      }
    }
  }
  return { frames, height: size, width: size, data };
}

function blend(pixel: [number, number, number], figure: Figure, frame: number, x: number, y: number): void {
  const centreX = figure.x + figure.velocityX * frame;
  const centreY = figure.y + figure.velocityY * frame;
  const alpha = coverage(shapeDistance(figure.shape, x - centreX, y - centreY, figure.radius));
  if (alpha === 0) return;
  for (let channel = 0; channel < 3; channel++)
    pixel[channel] = pixel[channel]! * (1 - alpha) + figure.colour[channel]! * alpha;
}
