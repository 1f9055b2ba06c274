/** The limits of the Markdown view, in one place: what they are and why. */

/**
 * Milliseconds that the worker has for one job. Ordinary text takes 1 to 20; what takes longer than this was written to
 * take long, and is shown as plain text.
 */
export const JOB_MS = 500;

/** Failed jobs after which all that is left of a text is shown as plain text, so that it cannot keep a core busy. */
export const FAILURES = 4;

/** Characters of a job. It bounds what one token more can cost, and a stored text is shown window by window. */
export const WINDOW = 20_000;

/**
 * Characters after which the finished items of a list, rows of a table and lines of a code block are settled and never
 * looked at again. Whether the items of a list stand apart is therefore decided for each such part on its own.
 */
export const PART = 4_000;

/** Cells of a table after which another one with the same head goes on: a table is laid out as a whole. */
export const CELLS = 2_000;

/** Items of a list after which another one goes on: the layout of a list looks at each of its items. */
export const ITEMS = 500;

/** Paragraphs and such that are held together, so that a layout has few things to look at where nothing changed. */
export const GROUP = 50;

/** Columns of a table; with more it stays a paragraph, as a row of two characters is filled up to all columns. */
export const COLUMNS = 30;

/** Levels of quotes and lists inside each other; what is deeper is text. Each level lexes its content once more. */
export const DEPTH = 16;

/** Tags of one block, item or row; with more it is plain text, as all of it is made safe in one go. */
export const TAGS = 1_000;

/** Definitions of links that a text may have; further ones do not count, as they travel with each job. */
export const DEFINITIONS = 500;

/** Characters of the name of a code block's language. */
export const LANGUAGE = 30;

/** Milliseconds of each frame, at most, for making HTML safe and putting it in; a frame has 16. */
export const SLICE_MS = 6;

/** Milliseconds of a frame, with its layout, after which the next one brings half as much. */
export const FRAME_MS = 32;

/** Characters of HTML that are made safe in one call: a call has a price of its own, and cannot be interrupted. */
export const BATCH = 2_000;
