/** Where each rank's cell lies: nodes as blocks, side by side, in the order of their first rank. Pure. */
export interface Grid {
  cell: number;
  gap: number;
  /** Above each block, for the node's name; 0: no room for names. */
  label: number;
  blockWidth: number;
  blockHeight: number;
  blockColumns: number;
  blocksPerRow: number;
  width: number;
  height: number;
  /** Ranks of each block. */
  blocks: number[][];
  /** Block of each rank, and place in it. */
  blockOf: number[];
  placeOf: number[];
}

const SIZES = [44, 36, 28, 22, 18, 14, 12, 10, 8, 7, 6, 5, 4, 3];
/** Beyond this many pixels, cells become smaller, as long as they can. */
const HEIGHT_MAX = 460;
const RANKS_PER_LINE_MAX = 8;
/** Smaller cells leave no room for names of nodes. */
const NAMED_CELL = 22;
const LABEL_HEIGHT = 18;
/** About as wide as a name of nine letters. */
const NAMED_WIDTH = 64;

export function layGrid(nodeOf: readonly number[], nodes: number, width: number): Grid {
  const blocks: number[][] = Array.from({ length: nodes }, () => []);
  const placeOf = nodeOf.map((node, rank) => blocks[node]!.push(rank) - 1);
  const most = Math.max(1, ...blocks.map(({ length }) => length));
  const blockColumns = Math.min(RANKS_PER_LINE_MAX, most);
  const lines = Math.ceil(most / blockColumns);
  let grid: Grid | null = null;
  for (const cell of SIZES) {
    const gap = cell >= 10 ? 2 : cell > 3 ? 1 : 0;
    const isNamed = cell >= NAMED_CELL;
    const between = isNamed ? 14 : cell >= 10 ? 6 : cell > 3 ? 3 : 2;
    const label = isNamed ? LABEL_HEIGHT : 0;
    const own = blockColumns * (cell + gap) - gap;
    const blockWidth = (isNamed ? Math.max(NAMED_WIDTH, own) : own) + between;
    const blockHeight = label + lines * (cell + gap) - gap + between;
    const blocksPerRow = Math.max(1, Math.floor((width + between) / blockWidth));
    const height = Math.ceil(nodes / blocksPerRow) * blockHeight - between;
    const fits = blockWidth - between <= width;
    grid = {
      ...{ cell, gap, label, blockWidth, blockHeight, blockColumns, blocksPerRow },
      ...{ width, height: Math.max(0, height), blocks, blockOf: [...nodeOf], placeOf },
    };
    if (fits && height <= HEIGHT_MAX) break;
  }
  return grid!;
}

/** Left upper corner of a rank's cell. */
export function cellAt(grid: Grid, rank: number): { x: number; y: number } {
  const { cell, gap, label, blockWidth, blockHeight, blockColumns, blocksPerRow, blockOf, placeOf } = grid;
  const block = blockOf[rank]!;
  const place = placeOf[rank]!;
  return {
    x: (block % blocksPerRow) * blockWidth + (place % blockColumns) * (cell + gap),
    y:
      Math.floor(block / blocksPerRow) * blockHeight +
      label +
      Math.floor(place / blockColumns) * (cell + gap),
  };
}

/** Rank under a point; null: none. */
export function rankAt(grid: Grid, x: number, y: number): number | null {
  const { cell, gap, label, blockWidth, blockHeight, blockColumns, blocksPerRow, blocks } = grid;
  const column = Math.floor(x / blockWidth);
  if (x < 0 || y < 0 || column >= blocksPerRow) return null;
  const block = Math.floor(y / blockHeight) * blocksPerRow + column;
  const inX = Math.floor((x - column * blockWidth) / (cell + gap));
  const inY = Math.floor((y - Math.floor(y / blockHeight) * blockHeight - label) / (cell + gap));
  if (inX >= blockColumns || inY < 0) return null;
  return blocks[block]?.[inY * blockColumns + inX] ?? null;
}

/** Where an arrow key leads from a rank; it stays where there is nothing. */
export function neighbour(grid: Grid, rank: number, key: string): number {
  const last = grid.blockOf.length - 1;
  if (key === "ArrowLeft") return Math.max(0, rank - 1);
  if (key === "ArrowRight") return Math.min(last, rank + 1);
  if (key === "Home") return 0;
  if (key === "End") return last;
  const { x, y } = cellAt(grid, rank);
  const half = grid.cell / 2;
  const step = key === "ArrowUp" ? -(grid.cell + grid.gap) : grid.cell + grid.gap;
  for (let at = y + step; at > -grid.blockHeight && at < grid.height + grid.blockHeight; at += step) {
    const found = rankAt(grid, x + half, at + half);
    if (found !== null && found !== rank) return found;
  }
  return rank;
}
