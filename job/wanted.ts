/**
 * Leaf types of the job file. The error text of each is what the key wants, as a phrase that follows "want":
 * "a whole number of at least 1". load_job.ts adds the key, its place in the file and what was found.
 */
import { z } from "zod";

export function wholeFrom(least: number): z.ZodNumber {
  const error = `a whole number of at least ${least}`;
  return z
    .number({ error })
    .int({ error })
    .min(least, { error })
    .max(Number.MAX_SAFE_INTEGER, { error: `a whole number of at most ${Number.MAX_SAFE_INTEGER}` });
}

const number = (error: string) => z.number({ error }).refine(Number.isFinite, { error });
export const positive = z.number({ error: "a number above 0" }).positive({ error: "a number above 0" });
export const notNegative = z
  .number({ error: "a number of at least 0" })
  .min(0, { error: "a number of at least 0" });
export const fraction = number("a number from 0 to 1")
  .min(0, { error: "a number from 0 to 1" })
  .max(1, { error: "a number from 0 to 1" });
/** Decay rates: 1 would divide by zero in the bias correction. */
export const fractionBelowOne = number("a number from 0 to below 1")
  .min(0, { error: "a number from 0 to below 1" })
  .lt(1, { error: "a number from 0 to below 1" });
export const oneTrueFalse = z.boolean({ error: "true or false" });

export function text(wanted: string): z.ZodString {
  return z.string({ error: wanted }).min(1, { error: wanted });
}

/** Text of at most so many characters. */
export function boundedText(wanted: string, charsMax: number): z.ZodString {
  return text(wanted).max(charsMax, { error: `${wanted} of at most ${charsMax} characters` });
}

export function oneOf<const T extends readonly [string, ...string[]]>(...values: T) {
  const error = values.length === 1 ? values[0] : `one of ${values.join(", ")}`;
  return z.enum(values as unknown as [T[number], ...T[number][]], { error });
}

export const wholeTriple = z.tuple([wholeFrom(1), wholeFrom(1), wholeFrom(1)], {
  error: "a list of 3 whole numbers [t, y, x]",
});
export const wholePair = z.tuple([wholeFrom(1), wholeFrom(1)], {
  error: "a list of 2 whole numbers [width, height]",
});
export const fractionPair = z.tuple([fractionBelowOne, fractionBelowOne], {
  error: "a list of 2 numbers from 0 to below 1",
});
