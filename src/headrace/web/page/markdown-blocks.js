/** Turns Markdown into blocks, and finds which of them are settled: no later text can change them. */

import { CELLS, DEFINITIONS, ITEMS, PART, WINDOW } from "./markdown-limits.js";
import { breakBefore, plainBlocks } from "./markdown-plain.js";
import { lex, lexBlocks, renderBlock } from "./markdown-render.js";

/**
 * A block as the page shows it. A list, a table and code grow by units: items, rows, lines.
 * `continues`: the block is the rest of the one before, and its units are added to that one.
 * @typedef {{ continues: boolean } & (
 *   | { kind: "html", html: string }
 *   | { kind: "list", tag: "ul" | "ol", start: number, units: string[] }
 *   | { kind: "table", head: string, units: string[] }
 *   | { kind: "code", language: string, units: string[] }
 *   | { kind: "plain", units: string[] }
 * )} Block
 */

/**
 * The block that the end of the settled text is in. `head` is text that is put before the rest, so that the rest is
 * lexed as the same kind of block. `cells` counts the table's cells so far, `items` the list's items; `start` is the
 * list's number.
 * @typedef {{ kind: "list", items: number, start: number }
 *   | { kind: "table", head: string, cells: number }
 *   | { kind: "code", head: string }
 *   | import("./markdown-plain.js").Plain} Open
 */

/** @typedef {[label: string, link: { href: string, title?: string | null }]} Definition */

/**
 * What the worker lexes: the text after the settled part, at most WINDOW characters. `isComplete`: no text follows.
 * @typedef {{ text: string, open: Open | null, definitions: Definition[], isComplete: boolean }} Job
 */

/**
 * The first `settled.blocks` blocks, made of the first `settled.length` characters, never change again. `definitions`
 * are the link definitions in them.
 * @typedef {{ blocks: Block[], settled: { blocks: number, length: number, open: Open | null },
 *   definitions: Definition[] }} Result
 */

/** @typedef {import("./markdown-render.js").Token} Token */

/**
 * Where the settled part of a text ends, and which block the end is in. `newline`: it is between two lines of code.
 * @typedef {{ end: number, open: Open | null, newline?: boolean }} Cut
 */

/**
 * @param {Job} job
 * @returns {Result}
 */
export function blocksOf({ text, open, definitions, isComplete }) {
  const known = new Map(definitions);
  /** @type {Result} */
  const result = { blocks: [], settled: { blocks: 0, length: 0, open }, definitions: [] };
  const { settled } = result;
  for (;;) {
    if (settled.open?.kind === "plain") {
      const plain = plainBlocks(text.slice(settled.length), settled.open, isComplete);
      settled.blocks = result.blocks.length + plain.settled.blocks;
      settled.length += plain.settled.length;
      settled.open = plain.settled.open;
      result.blocks.push(...plain.blocks);
      if (settled.open) return result;
    }
    const head = headOf(settled.open);
    const source = head + text.slice(settled.length);
    let cut = findCut(source, settled.open, isComplete);
    if (cut.end <= head.length && settled.length === 0 && text.length >= WINDOW) cut = giantCut(source, settled.open);
    if (cut.end <= head.length) {
      if (source.length > head.length) result.blocks.push(...render(lex(source, known), settled.open));
      return result;
    }
    const tokens = lex(source.slice(0, cut.end), known);
    for (const definition of definitionsIn(tokens)) {
      if (known.has(definition[0]) || known.size >= DEFINITIONS) continue;
      known.set(...definition);
      result.definitions.push(definition);
    }
    const blocks = render(tokens, settled.open);
    const last = blocks.at(-1);
    // The newline between this line of code and the next belongs to neither part.
    if (cut.newline && last?.kind === "code") last.units[0] += "\n";
    result.blocks.push(...blocks);
    settled.blocks = result.blocks.length;
    settled.length += cut.end - head.length;
    settled.open = cut.open;
  }
}

/** @param {Open | null} open */
function headOf(open) {
  return open && "head" in open ? open.head : "";
}

/**
 * Returns how much of a text is settled: the blocks before the last one, and a part of the last one if it is long.
 * @param {string} source the text, with the head of the open block
 * @param {Open | null} open
 * @param {boolean} isComplete
 * @returns {Cut}
 */
function findCut(source, open, isComplete) {
  // An incomplete line can change the meaning of the lines before it: "***" is a rule, "***a" is text.
  const lines = isComplete ? source : source.slice(0, source.lastIndexOf("\n") + 1);
  const tokens = lexBlocks(lines);
  const last = tokens.findLastIndex((token) => token.type !== "space");
  let end = 0;
  for (const [index, token] of tokens.entries()) {
    // marked has changed this token's text, so its length in the source is unknown.
    if (!lines.startsWith(token.raw, end)) return { end: isComplete ? source.length : 0, open: null };
    const part = partOf(token, index === 0 ? open : null);
    if (part) return { ...part, end: end + part.end };
    if (index >= last && !isComplete) return index === 0 ? { end: 0, open } : { end, open: null };
    end += token.raw.length;
  }
  return { end: isComplete ? source.length : 0, open: null };
}

/**
 * Returns the part of a long list, table or code block that can be settled. It depends only on the text up to its end
 * and the next line or two, so it does not depend on the time at which it is computed.
 * @param {Token} token
 * @param {Open | null} open
 * @returns {Cut | null}
 */
function partOf(token, open) {
  if (token.type === "list") {
    const list = /** @type {import("./markdown-render.js").List} */ (token);
    return listPart(list, open?.kind === "list" ? open : null);
  }
  if (token.type === "table") {
    const table = /** @type {import("./markdown-render.js").Table} */ (token);
    return tablePart(table, open?.kind === "table" ? open : null);
  }
  if (token.type === "code" && token.codeBlockStyle !== "indented") {
    return codePart(token.raw, open?.kind === "code" ? open.head : null);
  }
  return null;
}

/**
 * @param {import("./markdown-render.js").List} list
 * @param {{ items: number, start: number } | null} open
 * @returns {Cut | null}
 */
function listPart({ raw, items, start }, open) {
  const isNew = !open || isFull(open);
  let end = 0;
  let count = isNew ? 0 : open.items;
  for (const item of items) {
    if (!raw.startsWith(item.raw, end)) return null;
    if (end >= PART || count >= ITEMS) {
      return { end, open: { kind: "list", items: count, start: open ? startOf(open) : Number(start) } };
    }
    end += item.raw.length;
    count += 1;
  }
  return null;
}

/**
 * Returns the first number of the list that continues an open list.
 * @param {{ items: number, start: number }} open
 */
function startOf(open) {
  return isFull(open) ? open.start + open.items : open.start;
}

/**
 * Returns whether the rest must become another list or table: a long one is laid out again with each new item or cell.
 * @param {Open | { items: number, start: number }} open
 */
function isFull(open) {
  if ("items" in open) return open.items >= ITEMS;
  return "cells" in open && open.cells >= CELLS;
}

/**
 * @param {import("./markdown-render.js").Table} table
 * @param {{ head: string, cells: number } | null} open
 * @returns {Cut | null}
 */
function tablePart({ raw, header }, open) {
  const lines = raw.split("\n");
  const head = open?.head ?? `${lines[0]}\n${lines[1]}\n`;
  if (head.length > PART) return null;
  let end = head.length;
  let cells = open && open.cells < CELLS ? open.cells : 0;
  for (const line of lines.slice(2)) {
    if (line.trim() === "") return null;
    if (end - head.length >= PART || cells >= CELLS) return { end, open: { kind: "table", head, cells } };
    end += line.length + 1;
    cells += header.length;
  }
  return null;
}

/**
 * Cuts between two lines of code. The second one is not blank, and not the last one, which may be a fence.
 * @param {string} raw
 * @param {string | null} openHead
 * @returns {Cut | null}
 */
function codePart(raw, openHead) {
  const lines = raw.split("\n");
  const head = openHead ?? headOfCode(raw);
  const start = lines[0].length + 1;
  let end = start;
  const complete = lines.length - (lines.at(-1) === "" ? 1 : 0);
  for (let index = 1; index + 1 < complete; index += 1) {
    if (end - start >= PART && lines[index].trim() !== "") return { end, open: { kind: "code", head }, newline: true };
    end += lines[index].length + 1;
  }
  return null;
}

/**
 * Returns the fence put before the rest of a code block. Only its indentation, its kind and its language matter.
 * @param {string} raw
 */
function headOfCode(raw) {
  const [, fence, info] = /^( {0,3}(?:`{3,}|~{3,}))[ \t]*(\S*)/.exec(raw) ?? ["", "```", ""];
  return `${fence}${info.length > PART ? "" : info}\n`;
}

/**
 * Returns where to cut a block that fills a window and has no parts. The rest of code stays code. The rest of any other
 * block is plain text up to the next blank line.
 * @param {string} source
 * @param {Open | null} open
 * @returns {Cut}
 */
function giantCut(source, open) {
  const first = lexBlocks(source).find((token) => token.type !== "space");
  if (first?.type === "code" && first.codeBlockStyle !== "indented" && source.endsWith(first.raw)) {
    const head = open?.kind === "code" ? open.head : headOfCode(first.raw);
    // The beginning of the rest must not look like indentation or a fence.
    for (let end = source.length - 1; end > source.length - PART; end -= 1) {
      if (/[^\s`~\uDC00-\uDFFF]/.test(source[end])) {
        return { end, open: { kind: "code", head }, newline: source[end - 1] === "\n" };
      }
    }
  }
  const end = breakBefore(source, 0, source.length);
  return { end, open: { kind: "plain", toEnd: false, isBegun: false, isLineStart: source[end - 1] === "\n" } };
}

/**
 * @param {Token[]} tokens
 * @param {Open | null} open
 */
function render(tokens, open) {
  /** @type {Block[]} */
  const blocks = [];
  for (const token of tokens) {
    const block = renderBlock(token);
    if (!block) continue;
    if (blocks.length === 0 && open?.kind === block.kind) {
      block.continues = !isFull(open);
      if (block.kind === "list" && open.kind === "list") block.start = startOf(open);
    }
    blocks.push(block);
  }
  return blocks;
}

/**
 * Returns the link definitions in tokens, also those in quotes and lists.
 * @param {Token[]} tokens
 * @returns {Definition[]}
 */
function definitionsIn(tokens) {
  return tokens.flatMap((token) => {
    if (token.type === "def") return [[token.tag, { href: token.href, title: token.title }]];
    const inside = token.type === "list" ? token.items : "tokens" in token ? token.tokens : null;
    return definitionsIn(inside ?? []);
  });
}
