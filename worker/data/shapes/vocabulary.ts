/** What the shapes data set knows to draw, and what its judge knows to recognise. */

export const COLOURS = {
  red: [224, 44, 44],
  yellow: [240, 212, 44],
  green: [40, 172, 72],
  cyan: [52, 204, 216],
  blue: [44, 84, 228],
  purple: [164, 60, 208],
} as const satisfies Record<string, readonly [number, number, number]>;
export type ColourName = keyof typeof COLOURS;
export const COLOUR_NAMES = Object.keys(COLOURS) as ColourName[];

export const SHAPE_NAMES = ["circle", "square", "triangle", "cross"] as const;
export type ShapeName = (typeof SHAPE_NAMES)[number];

/** Motion per frame in pixels is speed times this; y grows downwards. */
export const DIRECTIONS = {
  right: [1, 0],
  left: [-1, 0],
  up: [0, -1],
  down: [0, 1],
} as const satisfies Record<string, readonly [number, number]>;
export type DirectionName = keyof typeof DIRECTIONS;
export const DIRECTION_NAMES = Object.keys(DIRECTIONS) as DirectionName[];

/**
 * Signed distance in pixels from (x, y), relative to the centre, to the edge of a shape; negative inside.
 * Sizes are chosen so that all shapes of one radius cover about the same area as the circle does.
 */
export function shapeDistance(shape: ShapeName, x: number, y: number, radius: number): number {
  switch (shape) {
    case "circle":
      return Math.hypot(x, y) - radius;
    case "square":
      return boxDistance(x, y, radius * 0.89, radius * 0.89);
    case "triangle":
      return triangleDistance(x, y, radius * 1.34);
    case "cross":
      return Math.min(
        boxDistance(x, y, radius * 1.14, radius * 0.42),
        boxDistance(x, y, radius * 0.42, radius * 1.14),
      );
  }
}

function boxDistance(x: number, y: number, halfWidth: number, halfHeight: number): number {
  const dx = Math.abs(x) - halfWidth;
  const dy = Math.abs(y) - halfHeight;
  return Math.hypot(Math.max(dx, 0), Math.max(dy, 0)) + Math.min(Math.max(dx, dy), 0);
}

/** Equilateral, pointing up, its centroid at 0; `radius` reaches from there to a corner. */
function triangleDistance(x: number, y: number, radius: number): number {
  const half = radius / 2;
  const slope = Math.sqrt(3) / 2;
  return Math.max(y - half, slope * x - y / 2 - half, -slope * x - y / 2 - half);
}

/** How much of the pixel at that distance the shape covers, 0..1: one pixel wide edges. */
export function coverage(distance: number): number {
  return Math.min(1, Math.max(0, 0.5 - distance));
}
