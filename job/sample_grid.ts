/** Token grid (t, y, x) of a picture or clip; frames are rounded down to 1 + k * stride, sides to whole patches, at least one. */
export function sampleGrid(
  size: { frames: number; height: number; width: number },
  settings: { stride: readonly [number, number, number]; patch: readonly [number, number, number] },
): [number, number, number] {
  const whole = (pixels: number, axis: 1 | 2) =>
    Math.max(1, Math.floor(pixels / (settings.stride[axis] * settings.patch[axis])));
  return [
    1 + Math.max(0, Math.floor((size.frames - 1) / settings.stride[0])),
    whole(size.height, 1),
    whole(size.width, 2),
  ];
}
