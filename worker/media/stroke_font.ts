/**
 * A small single-stroke alphabet, so that labels on sheets and charts look the same on a machine without any font.
 *
 * Each glyph is SVG path data on a grid where capitals reach from y = 0 to 10, small letters from 3, descenders to 13;
 * the number before the bar is its width. Drawn with round caps and joins.
 */
const GLYPHS: Readonly<Record<string, string>> = {
  " ": "3|",
  "!": "1|M.5 0V6.5M.5 9.6V10",
  '"': "3|M.5 0V2.5M2.5 0V2.5",
  "#": "6|M2 1L1 9M5 1L4 9M.3 3.5H6M0 6.5H5.7",
  "%": "7|M6.5 0L.5 10M1.5 0A1.5 2 0 1 0 1.6 0M5.5 6A1.5 2 0 1 0 5.6 6",
  "&": "6.4|M6.2 10L1.4 3.4Q.2 1.6 1.2 .6Q2.4 -.4 3.5 .7Q4.5 2 3 3.6L1 5.2Q-.6 7 .6 8.9Q2 10.6 4 9.6Q5.6 8.6 6.2 5.8",
  "'": "1|M.5 0V2.5",
  "(": "2.5|M2.5 -.5Q-1 5 2.5 11",
  ")": "2.5|M0 -.5Q3.5 5 0 11",
  "*": "4|M2 2V7M0 3.2L4 5.8M4 3.2L0 5.8",
  "+": "5|M2.5 2.5V7.5M0 5H5",
  ",": "1.5|M1 9.3Q1.2 11 0 11.6",
  "-": "4|M.3 5.7H3.7",
  ".": "1|M.5 9.6V10",
  "/": "4|M4 -.5L0 10.5",
  "0": "5.4|M2.7 0Q0 0 0 5T2.7 10Q5.4 10 5.4 5T2.7 0",
  "1": "5|M.6 2L3 0V10M.8 10H5",
  "2": "5.2|M.2 2.4Q.5 0 2.7 0Q5 0 5 2.7Q5 4.6 0 10H5.2",
  "3": "5.2|M.3 1.4Q1 0 2.6 0Q4.8 0 4.8 2.4Q4.8 4.6 2 4.7Q5.2 4.8 5.2 7.4Q5.2 10 2.5 10Q.5 10 0 8.3",
  "4": "5.6|M4.2 10V0L0 7H5.6",
  "5": "5.2|M4.7 0H1L.5 4.6Q1.5 3.7 2.7 3.7Q5.2 3.7 5.2 6.8Q5.2 10 2.5 10Q.6 10 0 8.6",
  "6": "5.3|M4.7 1Q4 0 2.9 0Q0 0 0 5.7Q0 10 2.7 10Q5.3 10 5.3 6.9Q5.3 4 2.8 4Q.6 4 0 6.3",
  "7": "5|M0 0H5L1.8 10",
  "8": "5.4|M2.7 4.6Q.4 4.6 .4 2.3Q.4 0 2.7 0Q5 0 5 2.3Q5 4.6 2.7 4.6Q0 4.6 0 7.3Q0 10 2.7 10Q5.4 10 5.4 7.3Q5.4 4.6 2.7 4.6",
  "9": "5.3|M5.3 3.7Q4.7 6 2.5 6Q0 6 0 3.1Q0 0 2.6 0Q5.3 0 5.3 4.3Q5.3 10 2.4 10Q1.3 10 .6 9",
  ":": "1|M.5 4V4.4M.5 9.6V10",
  ";": "1.5|M1 4V4.4M1 9.3Q1.2 11 0 11.6",
  "<": "4|M4 2L0 5L4 8",
  "=": "5|M0 3.8H5M0 6.4H5",
  ">": "4|M0 2L4 5L0 8",
  "?": "4.5|M0 1.8Q.3 0 2.2 0Q4.5 0 4.5 2.4Q4.5 4 2.2 5.4V7M2.2 9.6V10",
  A: "6.4|M0 10L3.2 0L6.4 10M1.2 6.4H5.2",
  B: "5.6|M0 0V10H3Q5.6 10 5.6 7.3Q5.6 4.7 3 4.7H0H2.8Q5 4.7 5 2.3Q5 0 2.8 0Z",
  C: "6.2|M6.2 2.4Q5.4 0 3.3 0Q0 0 0 5T3.3 10Q5.4 10 6.2 7.6",
  D: "6|M0 0V10H2.4Q6 10 6 5T2.4 0Z",
  E: "5|M5 0H0V10H5M0 4.8H4.2",
  F: "5|M5 0H0V10M0 4.8H4.2",
  G: "6.4|M6.1 2.2Q5.3 0 3.3 0Q0 0 0 5T3.3 10Q5.6 10 6.4 8V5.4H3.8",
  H: "6|M0 0V10M6 0V10M0 4.8H6",
  I: "1|M.5 0V10",
  J: "4|M4 0V7.4Q4 10 1.9 10Q.2 10 0 8",
  K: "5.8|M0 0V10M5.6 0L0 6M1.9 4.2L5.8 10",
  L: "4.8|M0 0V10H4.8",
  M: "7.4|M0 10V0L3.7 7L7.4 0V10",
  N: "6|M0 10V0L6 10V0",
  O: "6.8|M3.4 0Q0 0 0 5T3.4 10Q6.8 10 6.8 5T3.4 0",
  P: "5.4|M0 10V0H2.9Q5.4 0 5.4 2.8T2.9 5.6H0",
  Q: "6.8|M3.4 0Q0 0 0 5T3.4 10Q6.8 10 6.8 5T3.4 0M4.2 7.4L6.6 10.6",
  R: "5.7|M0 10V0H2.9Q5.4 0 5.4 2.7T2.9 5.3H0M3 5.3L5.7 10",
  S: "5.4|M5.1 1.9Q4.5 0 2.7 0Q.3 0 .3 2.4Q.3 4.2 2.7 4.8Q5.4 5.4 5.4 7.5Q5.4 10 2.7 10Q.5 10 0 7.9",
  T: "6|M0 0H6M3 0V10",
  U: "6|M0 0V6.6Q0 10 3 10Q6 10 6 6.6V0",
  V: "6.4|M0 0L3.2 10L6.4 0",
  W: "8.6|M0 0L2.1 10L4.3 1.6L6.5 10L8.6 0",
  X: "5.8|M0 0L5.8 10M5.8 0L0 10",
  Y: "6|M0 0L3 5V10M6 0L3 5",
  Z: "5.6|M0 0H5.6L0 10H5.6",
  "[": "2|M2 -.5H0V11H2",
  "\\": "4|M0 -.5L4 10.5",
  "]": "2|M0 -.5H2V11H0",
  _: "5|M0 11H5",
  a: "4.6|M4.6 3V10M4.6 5Q4 3 2.4 3Q0 3 0 6.5T2.4 10Q4 10 4.6 8",
  b: "4.6|M0 0V10M0 5Q.6 3 2.2 3Q4.6 3 4.6 6.5T2.2 10Q.6 10 0 8",
  c: "4.3|M4.3 4.4Q3.6 3 2.3 3Q0 3 0 6.5T2.3 10Q3.6 10 4.3 8.6",
  d: "4.6|M4.6 0V10M4.6 5Q4 3 2.4 3Q0 3 0 6.5T2.4 10Q4 10 4.6 8",
  e: "4.6|M0 6.3H4.6Q4.5 3 2.4 3Q0 3 0 6.5T2.5 10Q3.9 10 4.5 8.5",
  f: "3|M3 .2Q1 -.4 1 2V10M0 3.4H2.8",
  g: "4.6|M4.6 3V10.4Q4.6 13 2.3 13Q.8 13 .3 12M4.6 5Q4 3 2.4 3Q0 3 0 6.4T2.4 9.8Q4 9.8 4.6 8",
  h: "4.4|M0 0V10M0 5.4Q.6 3 2.5 3Q4.4 3 4.4 5.6V10",
  i: "1|M.5 3V10M.5 .4V.8",
  j: "2|M1.5 3V11.2Q1.5 13 0 12.8M1.5 .4V.8",
  k: "4.2|M0 0V10M4 3L0 7M1.6 5.6L4.2 10",
  l: "1|M.5 0V10",
  m: "7.4|M0 3V10M0 5.2Q.5 3 2.1 3Q3.7 3 3.7 5.2V10M3.7 5.2Q4.2 3 5.8 3Q7.4 3 7.4 5.2V10",
  n: "4.4|M0 3V10M0 5.4Q.6 3 2.5 3Q4.4 3 4.4 5.6V10",
  o: "4.8|M2.4 3Q0 3 0 6.5T2.4 10Q4.8 10 4.8 6.5T2.4 3",
  p: "4.6|M0 3V13M0 5Q.6 3 2.2 3Q4.6 3 4.6 6.5T2.2 10Q.6 10 0 8",
  q: "4.6|M4.6 3V13M4.6 5Q4 3 2.4 3Q0 3 0 6.5T2.4 10Q4 10 4.6 8",
  r: "2.8|M0 3V10M0 5.8Q.5 3 2.8 3.2",
  s: "4|M3.8 4.3Q3.3 3 2 3Q.2 3 .2 4.7Q.2 6 2 6.4Q4 6.8 4 8.3Q4 10 2 10Q.4 10 0 8.6",
  t: "3|M1 .8V8Q1 10.3 3 9.8M0 3.2H2.8",
  u: "4.4|M0 3V7.4Q0 10 1.9 10Q3.8 10 4.4 7.6M4.4 3V10",
  v: "4.4|M0 3L2.2 10L4.4 3",
  w: "6.6|M0 3L1.6 10L3.3 4L5 10L6.6 3",
  x: "4.2|M0 3L4.2 10M4.2 3L0 10",
  y: "4.4|M0 3L2.2 9.6M4.4 3L1.8 11.2Q1.2 13 0 12.8",
  z: "4|M0 3H4L0 10H4",
};
const UNKNOWN = "4.4|M0 0H4.4V10H0Z";
const GAP = 2;
const CAPITAL_HEIGHT = 10;

export interface TextStyle {
  /** Height of a capital, pixels. */
  size: number;
  colour: string;
  anchor?: "start" | "middle" | "end";
  /** Turned a quarter to the left, for the title of a vertical axis. */
  upright?: boolean;
}

/** Width of a text in pixels. */
export function textWidth(text: string, size: number): number {
  const units = [...text].reduce((sum, character) => sum + widthOf(character) + GAP, -GAP);
  return (Math.max(0, units) * size) / CAPITAL_HEIGHT;
}

/** SVG of a text whose baseline starts, is centred or ends at (x, y). */
export function textSvg(text: string, x: number, y: number, style: TextStyle): string {
  const scale = style.size / CAPITAL_HEIGHT;
  const shift =
    { start: 0, middle: -0.5, end: -1 }[style.anchor ?? "start"] * (textWidth(text, style.size) / scale);
  let pen = 0;
  const strokes: string[] = [];
  for (const character of text) {
    const [, path] = glyph(character);
    if (path !== "") strokes.push(`<path transform="translate(${round(pen)} 0)" d="${path}"/>`);
    pen += widthOf(character) + GAP;
  }
  const turn = style.upright ? " rotate(-90)" : "";
  const place = `translate(${round(x)} ${round(y)})${turn} scale(${round(scale)}) translate(${round(shift)} ${-CAPITAL_HEIGHT})`;
  return `<g transform="${place}" fill="none" stroke="${style.colour}" stroke-width="1.25" stroke-linecap="round" stroke-linejoin="round">${strokes.join("")}</g>`;
}

/** The text cut to a width, with dots where something was left out. */
export function fitText(text: string, size: number, width: number): string {
  if (textWidth(text, size) <= width) return text;
  let kept = text;
  while (kept !== "" && textWidth(`${kept}...`, size) > width) kept = kept.slice(0, -1).trimEnd();
  return `${kept}...`;
}

/** The text over as many lines as it needs, at most `linesMax`, the last one cut. */
export function wrapText(text: string, options: { size: number; width: number; linesMax: number }): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const longer = lines.length === 0 ? word : `${lines.at(-1)} ${word}`;
    if (
      lines.length > 0 &&
      (textWidth(longer, options.size) <= options.width || lines.length === options.linesMax)
    )
      lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.map((line) => fitText(line, options.size, options.width));
}

function glyph(character: string): [number, string] {
  const [width, path] = (Object.hasOwn(GLYPHS, character) ? GLYPHS[character]! : UNKNOWN).split("|") as [
    string,
    string,
  ];
  return [Number(width), path];
}

function widthOf(character: string): number {
  return glyph(character)[0];
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
