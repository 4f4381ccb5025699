import sharp from "sharp";
import { toGokuError } from "../../job/errors.js";
import type { RgbClip } from "../data/rgb_clip.js";
import { textSvg, wrapText } from "./stroke_font.js";
import { writeWhole } from "./write_whole.js";

export interface SheetTile {
  /** Shown frame by frame from left to right; a picture has one. */
  clip: RgbClip;
  caption: string;
  /** Frame around the tile: asked and seen agree, differ, or nothing was judged. */
  mark?: "right" | "wrong" | null;
}

const GAP = 12;
const MARGIN = 16;
const LABEL_SIZE = 9;
const LINE_HEIGHT = 15;
const LABEL_LINES = 2;
/** Small pictures are enlarged to about this height, by whole numbers so that pixels stay square. */
const TILE_HEIGHT = 128;
const SHEET_WIDTH = 1180;
const MARK_COLOURS = { right: "#2e9e5b", wrong: "#d0433b" } as const;

/**
 * Writes a PNG sheet of pictures and clips with their captions below, in rows, whole or not at all.
 * @throws GokuError STORAGE_FULL, STORAGE_FAILED
 */
export async function writeSheet(
  path: string,
  tiles: readonly SheetTile[],
  options: { title?: string } = {},
): Promise<void> {
  try {
    await writeWhole(path, await sheetPng(tiles, options));
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  }
}

/** The bytes of such a sheet; the same for the same tiles. */
export async function sheetPng(
  tiles: readonly SheetTile[],
  options: { title?: string } = {},
): Promise<Uint8Array> {
  const placed = layOut(tiles, options.title ? MARGIN + 26 : MARGIN);
  const width = Math.max(...placed.map((tile) => tile.x + tile.width), 200) + MARGIN;
  const height =
    Math.max(...placed.map((tile) => tile.y + tile.height + LABEL_LINES * LINE_HEIGHT), MARGIN) + MARGIN;
  const pictures = await Promise.all(
    placed.map(async (tile) => ({
      input: await filmStrip(tile.tile.clip, tile.scale),
      left: tile.x,
      top: tile.y,
    })),
  );
  const title = options.title
    ? textSvg(options.title, MARGIN, MARGIN + 13, { size: 13, colour: "#1d2127" })
    : "";
  const labels = placed.map((tile) => labelSvg(tile)).join("");
  const overlay = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">${title}${labels}</svg>`;
  return sharp({ create: { width, height, channels: 3, background: "#ffffff" } })
    .composite([...pictures, { input: Buffer.from(overlay), left: 0, top: 0 }])
    .png()
    .toBuffer();
}

/** The picture alone, in its own size; of a clip the first frame. */
export function picturePng({ data, width, height }: RgbClip): Promise<Uint8Array> {
  const raw = { width, height, channels: 3 } as const;
  return sharp(data.subarray(0, width * height * 3), { raw })
    .png()
    .toBuffer();
}

interface PlacedTile {
  tile: SheetTile;
  x: number;
  y: number;
  width: number;
  height: number;
  scale: number;
}

/** Tiles from left to right, a new row where the sheet ends. */
function layOut(tiles: readonly SheetTile[], top: number): PlacedTile[] {
  const placed: PlacedTile[] = [];
  let x = MARGIN;
  let y = top;
  let rowHeight = 0;
  for (const tile of tiles) {
    const { clip } = tile;
    const scale = Math.max(1, Math.floor(TILE_HEIGHT / clip.height));
    const width = clip.frames * clip.width * scale + (clip.frames - 1) * 2;
    const height = clip.height * scale;
    if (x > MARGIN && x + width > SHEET_WIDTH - MARGIN) {
      x = MARGIN;
      y += rowHeight + LABEL_LINES * LINE_HEIGHT + GAP;
      rowHeight = 0;
    }
    placed.push({ tile, x, y, width, height, scale });
    rowHeight = Math.max(rowHeight, height);
    x += width + GAP;
  }
  return placed;
}

/** Frames side by side, enlarged, as PNG. */
async function filmStrip(clip: RgbClip, scale: number): Promise<Buffer> {
  const gap = 2;
  const frameBytes = clip.width * clip.height * 3;
  const frames = await Promise.all(
    Array.from({ length: clip.frames }, (_, frame) =>
      sharp(clip.data.subarray(frame * frameBytes, (frame + 1) * frameBytes), {
        raw: { width: clip.width, height: clip.height, channels: 3 },
      })
        .resize(clip.width * scale, clip.height * scale, { kernel: "nearest" })
        .png()
        .toBuffer(),
    ),
  );
  const step = clip.width * scale + gap;
  return sharp({
    create: {
      width: step * clip.frames - gap,
      height: clip.height * scale,
      channels: 3,
      background: "#ffffff",
    },
  })
    .composite(frames.map((input, frame) => ({ input, left: frame * step, top: 0 })))
    .png()
    .toBuffer();
}

function labelSvg({ tile, x, y, width, height }: PlacedTile): string {
  const lines = wrapText(tile.caption, { size: LABEL_SIZE, width, linesMax: LABEL_LINES });
  const text = lines
    .map((line, i) =>
      textSvg(line, x, y + height + 14 + i * LINE_HEIGHT, { size: LABEL_SIZE, colour: "#3a414b" }),
    )
    .join("");
  if (!tile.mark) return text;
  const frame = `<rect x="${x - 2}" y="${y - 2}" width="${width + 4}" height="${height + 4}" rx="2" fill="none" stroke="${MARK_COLOURS[tile.mark]}" stroke-width="3"/>`;
  return frame + text;
}
