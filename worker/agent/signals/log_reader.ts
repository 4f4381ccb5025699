import { LOG_WORDS, type LogWord, PYTHON_ERROR } from "../../../job/signals/log_words.js";

/** What a line said. */
export interface ReadSign {
  /** In job/signals/catalogue.ts. */
  kind: string;
  /** Empty: not known. */
  device: string;
  text: string;
}

/** So much of a line is looked at: what is longer is data, and the time for a line has an end. */
const LOOKED_LENGTH = 1_000;
/** So much of it is told. */
export const TEXT_LENGTH_MAX = 300;

/** `torchrun` writes which rank a line is of. */
const PREFIX = /^\[[^\]]{1,40}\]:? ?/;
const ERROR_LINE = /^[A-Za-z_][\w.]*(?::|$)/;
/** Ends of a Python program that nobody needs to mend. */
const ASKED_FOR = ["KeyboardInterrupt", "SystemExit"];

/**
 * Reads the output of one rank, line by line, for words that say what is wrong. Of a Python traceback only the last line
 * counts: those before it are code, which may hold any words.
 */
export class LogReader {
  private isTraceback = false;

  /** Null: the line says nothing of the kind. */
  read(line: string): ReadSign | null {
    const seen = line.slice(0, LOOKED_LENGTH).replace(PREFIX, "");
    if (seen.startsWith("Traceback (most recent call last)")) {
      this.isTraceback = true;
      return null;
    }
    if (this.isTraceback && (seen === "" || /^\s/.test(seen))) return null;
    const isLast = this.isTraceback && ERROR_LINE.test(seen);
    this.isTraceback = false;
    const word = LOG_WORDS.find((each) => matches(each, seen)) ?? (isLast ? PYTHON_ERROR : null);
    if (word === null || (word === PYTHON_ERROR && ASKED_FOR.some((name) => seen.startsWith(name))))
      return null;
    return { kind: `log.${word.name}`, device: "", text: seen.slice(0, TEXT_LENGTH_MAX) };
  }
}

function matches({ any, whole = false }: LogWord, line: string): boolean {
  if (whole) return any.some(([text]) => line.trim() === text);
  return any.some((texts) => {
    let from = 0;
    return texts.every((text) => {
      const at = line.indexOf(text, from);
      from = at + text.length;
      return at >= 0;
    });
  });
}
