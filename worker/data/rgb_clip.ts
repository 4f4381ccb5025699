/** Frames of 8-bit sRGB, the one form in which media meet the codec; a picture has one frame. */
export interface RgbClip {
  frames: number;
  height: number;
  width: number;
  /** [frames, height, width, 3]. */
  data: Uint8Array;
}

/** One frame of a clip, sharing its memory. */
export function rgbFrame(clip: RgbClip, frame: number): RgbClip {
  if (!(frame >= 0 && frame < clip.frames))
    throw new RangeError(`rgbFrame: frame ${frame} is not in 0..${clip.frames - 1}`);
  const bytes = clip.height * clip.width * 3;
  return {
    frames: 1,
    height: clip.height,
    width: clip.width,
    data: clip.data.subarray(frame * bytes, (frame + 1) * bytes),
  };
}
