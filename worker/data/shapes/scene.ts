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
  const backgroundTop = random.uniform() < 0.7 ? random.between(16, 70) : random.between(185, 235);
  const scene = {
    size,
    frames: kind === "moving" ? options.frames : 1,
    backgroundTop,
    backgroundBottom: backgroundTop + random.between(-14, 14),
  };
  if (kind === "single") return { ...scene, ...single(random, shape, colour, size) };
  if (kind === "moving") return { ...scene, ...moving(random, shape, colour, size, cycle, options.frames) };
  return { ...scene, ...pair(random, shape, colour, size) };
}

type Content = Pick<Scene, "caption" | "figures">;

function single(random: PhiloxRandom, shape: ShapeName, colour: ColourName, size: number): Content {
  const radius = size * random.between(0.2, 0.32);
  const room = Math.max(0, size / 2 - radius * 1.34 - 0.5);
  const figure = still(random, shape, colour, {
    x: size / 2 + random.between(-room, room),
    y: size / 2 + random.between(-room, room),
    radius,
  });
  // only some of the small and large ones say so: the plain caption stays by far the most common
  const word =
    random.uniform() < 0.6 ? "" : radius < size * 0.225 ? "small " : radius > size * 0.295 ? "large " : "";
  return { caption: `a ${word}${colour} ${shape}`, figures: [figure] };
}

function pair(random: PhiloxRandom, shape: ShapeName, colour: ColourName, size: number): Content {
  const otherShape = random.pick(SHAPE_NAMES);
  const otherColour = random.pick(COLOUR_NAMES.filter((name) => name !== colour));
  const relation = random.pick(["left of", "right of", "above", "below"] as const);
  const along = size * random.between(0.23, 0.25);
  const across = () => size / 2 + random.between(-0.1, 0.1) * size;
  const sign = relation === "left of" || relation === "above" ? -1 : 1;
  const horizontal = relation === "left of" || relation === "right of";
  const place = (offset: number) =>
    horizontal ? { x: size / 2 + offset, y: across() } : { x: across(), y: size / 2 + offset };
  const figures = [
    still(random, shape, colour, { ...place(sign * along), radius: size * random.between(0.14, 0.18) }),
    still(random, otherShape, otherColour, {
      ...place(-sign * along),
      radius: size * random.between(0.14, 0.18),
    }),
  ];
  return { caption: `a ${colour} ${shape} ${relation} a ${otherColour} ${otherShape}`, figures };
}

function moving(
  random: PhiloxRandom,
  shape: ShapeName,
  colour: ColourName,
  size: number,
  cycle: number,
  frames: number,
): Content {
  const direction = DIRECTION_NAMES[cycle % DIRECTION_NAMES.length]!;
  const [dx, dy] = DIRECTIONS[direction];
  const radius = size * random.between(0.17, 0.23);
  const path = size * random.between(0.3, 0.42); // from the first frame to the last
  const speed = frames > 1 ? path / (frames - 1) : 0;
  const room = Math.max(0, size / 2 - radius * 1.34 - 0.5);
  const side = random.between(-room, room);
  const figure = still(random, shape, colour, {
    x: size / 2 - (dx * path) / 2 + (dx === 0 ? side : 0),
    y: size / 2 - (dy * path) / 2 + (dy === 0 ? side : 0),
    radius,
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
  const light = random.between(0.92, 1.06);
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
