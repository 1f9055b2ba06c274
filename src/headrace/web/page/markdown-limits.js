/** The limits of the Markdown view, with their reasons. */

/**
 * Milliseconds that the worker has for one job. Ordinary text takes 1 to 20. Text that takes longer than this was
 * written to do so, and is shown as plain text.
 */
export const JOB_MS = 500;

/** Failed jobs after which the rest of a text is shown as plain text, so that it cannot keep a core busy. */
export const FAILURES = 4;

/** Characters of a job. It bounds the cost of each new token. A stored text is shown window by window. */
export const WINDOW = 20_000;

/**
 * Characters after which the finished items of a list, rows of a table and lines of a code block are settled. Whether
 * the items of a list are spaced is therefore decided for each such part by itself.
 */
export const PART = 4_000;

/** Cells of a table after which a new table with the same head begins: a table is laid out as a whole. */
export const CELLS = 2_000;

/** Items of a list after which a new list begins: the layout of a list visits each item. */
export const ITEMS = 500;

/** Paragraphs and similar blocks in one group element, so that a layout visits few elements that have not changed. */
export const GROUP = 50;

/** Columns of a table. With more, it stays a paragraph: even a row of two characters is filled up to all columns. */
export const COLUMNS = 30;

/** Nesting levels of quotes and lists. Deeper ones are text. Each level lexes its content once more. */
export const DEPTH = 16;

/** Tags of one block, item or row. With more, it is plain text, because all of it is sanitized in one call. */
export const TAGS = 1_000;

/** Link definitions of a text. Further ones are ignored, because all are sent with each job. */
export const DEFINITIONS = 500;

/** Characters of the name of a code block's language. */
export const LANGUAGE = 30;

/** The most milliseconds of each frame for sanitizing and inserting HTML; a frame has 16. */
export const SLICE_MS = 6;

/** Milliseconds of a frame, with its layout, above which the next slice is halved. */
export const FRAME_MS = 32;

/** Characters of HTML sanitized in one call. Each call has a fixed cost, and cannot be interrupted. */
export const BATCH = 2_000;
