/** Plain text, which is not parsed as Markdown: cut into parts that can be laid out one by one. */

import { PART } from "./markdown-limits.js";

/** @typedef {import("./markdown-blocks.js").Block} Block */

/**
 * Plain text up to the next blank line, or to the end. `isBegun`: the block before is its beginning.
 * @typedef {{ kind: "plain", toEnd: boolean, isBegun: boolean, isLineStart: boolean }} Plain
 */

/**
 * @param {string} text
 * @param {Plain} open
 * @param {boolean} isComplete
 * @returns {{ blocks: Block[], settled: { blocks: number, length: number, open: Plain | null } }}
 */
export function plainBlocks(text, { toEnd, isBegun, isLineStart }, isComplete) {
  const blank = toEnd ? null : (isLineStart ? /(?:^|\n)[ \t]*\n/ : /\n[ \t]*\n/).exec(text);
  const end = blank ? blank.index + blank[0].length : text.length;
  const units = [];
  let length = 0;
  while (end - length > PART) {
    const part = text.slice(length, breakBefore(text, length, length + PART));
    units.push(part);
    length += part.length;
  }
  const settledUnits = units.length;
  // The blank line itself is the space before the next block.
  const last = text.slice(length, blank ? blank.index : end);
  if (last) units.push(last);
  const isEnded = isComplete || blank !== null;
  if (isEnded) length = end;
  /** @type {(units: string[], continues: boolean) => Block} */
  const block = (units, continues) => ({ continues, kind: "plain", units });
  const blocks = [];
  if (isEnded) {
    if (units.length > 0) blocks.push(block(units, isBegun));
    return {
      blocks,
      settled: { blocks: blocks.length, length, open: blank ? null : continued(isBegun || units.length > 0, true) },
    };
  }
  if (settledUnits > 0) blocks.push(block(units.slice(0, settledUnits), isBegun));
  const open = continued(isBegun || settledUnits > 0, length > 0 ? text[length - 1] === "\n" : isLineStart);
  const settled = { blocks: blocks.length, length, open };
  if (units.length > settledUnits) blocks.push(block(units.slice(settledUnits), open.isBegun));
  return { blocks, settled };

  /** @type {(isBegun: boolean, isLineStart: boolean) => Plain} */
  function continued(isBegun, isLineStart) {
    return { kind: "plain", toEnd, isBegun, isLineStart };
  }
}

/**
 * Returns the best place to cut a text before `end`: after a line, otherwise after a word, otherwise anywhere.
 * @param {string} text
 * @param {number} start
 * @param {number} end
 */
export function breakBefore(text, start, end) {
  const middle = start + (end - start) / 2;
  for (const mark of ["\n", " "]) {
    const found = text.lastIndexOf(mark, end - 1) + 1;
    if (found > middle) return found;
  }
  // Not between the two halves of a surrogate pair.
  return /[\uDC00-\uDFFF]/.test(text[end] ?? "") ? end - 1 : end;
}
