/**
 * How media are brought to the pixel grid of a job. Pure arithmetic in two steps, scale and crop,
 * since ffmpeg does the first by itself (see scaleExpression) before anyone here knows the size of the clip.
 */
export interface FitLimits {
  /** Pixels of one frame, at most. */
  maxPixels: number;
  /** Width and height become whole multiples of these: codec stride times patch. */
  unitX: number;
  unitY: number;
}

export interface Size {
  width: number;
  height: number;
}

/** Guards floor() against a quotient that rounding left just below a whole number. */
const NUDGE = 1e-9;

/**
 * The size to scale to: never up; small enough for maxPixels, and so that the whole units inside are filled
 * with as little as possible cut off.
 */
export function scaledSize({ width, height }: Size, { maxPixels, unitX, unitY }: FitLimits): Size {
  const scale = Math.min(1, Math.sqrt(maxPixels / (width * height)));
  const wholeX = Math.max(unitX, Math.floor((width * scale) / unitX + NUDGE) * unitX);
  const wholeY = Math.max(unitY, Math.floor((height * scale) / unitY + NUDGE) * unitY);
  const cover = Math.min(1, Math.max(wholeX / width, wholeY / height));
  return { width: Math.floor(width * cover + 0.5), height: Math.floor(height * cover + 0.5) };
}

/** The centred crop of a scaled picture: whole units, at most maxPixels; null when not even one unit fits. */
export function croppedSize(scaled: Size, { maxPixels, unitX, unitY }: FitLimits): Size | null {
  let width = Math.floor(scaled.width / unitX) * unitX;
  let height = Math.floor(scaled.height / unitY) * unitY;
  if (width === 0 || height === 0) return null;
  // a very long or very tall picture: its short side is one unit, the long one takes what is left
  if (width * height > maxPixels && height === unitY) width = Math.floor(maxPixels / height / unitX) * unitX;
  if (width * height > maxPixels && width === unitX) height = Math.floor(maxPixels / width / unitY) * unitY;
  return width === 0 || height === 0 ? null : { width, height };
}

/** scaledSize() as arguments of ffmpeg's scale filter; non-square pixels are made square. */
export function scaleExpression({ maxPixels, unitX, unitY }: FitLimits): string {
  const width = "(iw*if(sar,sar,1))";
  const scale = `min(1,sqrt(${maxPixels}/(${width}*ih)))`;
  const wholeX = `max(${unitX},floor(${width}*ld(0)/${unitX}+${NUDGE})*${unitX})`;
  const wholeY = `max(${unitY},floor(ih*ld(0)/${unitY}+${NUDGE})*${unitY})`;
  const cover = `st(0,${scale});st(1,min(1,max(${wholeX}/${width},${wholeY}/ih)))`;
  return `w='${cover};floor(${width}*ld(1)+0.5)':h='${cover};floor(ih*ld(1)+0.5)'`;
}

/** Frames of a clip that are used: 1 + k * strideT, at most maxFrames; a clip of too few for one group is its first frame. */
export function usedFrames(frames: number, limits: { maxFrames: number; strideT: number }): number {
  return 1 + Math.floor((Math.min(frames, limits.maxFrames) - 1) / limits.strideT) * limits.strideT;
}
