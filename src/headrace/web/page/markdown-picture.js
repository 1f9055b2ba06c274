/** The elements of one text: changes them into what the blocks say, and leaves alone what is the same. */

import { codeFigure } from "./code-block.js";
import { element } from "./dom.js";
import { Batches } from "./markdown-batches.js";
import { GROUP } from "./markdown-limits.js";
import { morph } from "./markdown-morph.js";
import { tableScroller } from "./markdown-safe.js";

/** @import { Block } from "./markdown-blocks.js" */
/** @import { Sanitise } from "./markdown-safe.js" */

/**
 * A block on the page. Its units are items, rows, parts of a text; a few paragraphs and such are one block together.
 *
 * @typedef {object} Shown
 * @property {string} key with another key it is another block
 * @property {HTMLElement} element
 * @property {HTMLElement} body where the units are
 * @property {{ source: string, node: HTMLElement }[]} units
 */

export class Picture {
  /** @param {HTMLElement} container */
  constructor(container) {
    this.#container = container;
  }

  /** Makes HTML safe; to be given before there is any. @type {Sanitise} */
  sanitise = () => {
    throw new Error("nothing was given that makes HTML safe");
  };

  #container;
  /** @type {Shown[]} */
  #shown = [];
  // What is settled: so many blocks, and of the last one so many units.
  #numBlocks = 0;
  #numUnits = 0;
  #numSanitised = 0;

  /** How many characters of HTML have been made safe. */
  get numSanitised() {
    return this.#numSanitised;
  }

  /** Begin from the start. What is there stays until it turns out to be different. */
  restart() {
    this.#numBlocks = 0;
    this.#numUnits = 0;
  }

  /**
   * Show blocks behind those that are settled.
   *
   * @param {Block[]} blocks
   * @param {number} numSettled so many of them never change again
   * @param {boolean} isEnd whether nothing comes behind them
   * @returns {Generator<void, void>} in short steps
   */
  *draw(blocks, numSettled, isEnd) {
    const fresh = new Batches(blocks.flatMap(htmlOf), (html) => this.#makeSafe(html));
    let count = this.#numBlocks;
    let numUnits = this.#numUnits;
    for (const [index, block] of blocks.entries()) {
      const isNext = block.kind === "html" && numUnits < GROUP && this.#shown[count - 1]?.key === "html";
      if (!block.continues && !isNext) {
        this.#trim(count, numUnits);
        this.#place(count, block, fresh);
        count += 1;
        numUnits = 0;
      }
      for (const source of "units" in block ? block.units : [block.html]) {
        const shown = this.#shown[count - 1];
        const isHtml = block.kind !== "code" && block.kind !== "plain";
        if (shown.units[numUnits]?.source !== source) {
          // Each part of a text is a block of its own, so that only the last one is laid out again when it grows.
          setUnit(shown, numUnits, source, isHtml ? fresh.take() : element("span", { class: "part", text: source }));
        } else if (isHtml) fresh.skip();
        numUnits += 1;
        yield;
      }
      if (index + 1 === numSettled) {
        this.#numBlocks = count;
        this.#numUnits = numUnits;
      }
    }
    if (!isEnd) return;
    this.#trim(count, numUnits);
    for (const { element } of this.#shown.splice(count)) element.remove();
  }

  /** @param {string} html */
  #makeSafe(html) {
    this.#numSanitised += html.length;
    return this.sanitise(html);
  }

  /**
   * Take away the units of a block that it has no more.
   *
   * @param {number} count of the blocks up to it
   * @param {number} numUnits
   */
  #trim(count, numUnits) {
    for (const { node } of this.#shown[count - 1]?.units.splice(numUnits) ?? []) node.remove();
  }

  /**
   * Have an element for a block, the one that is there if it is for the same.
   *
   * @param {number} index
   * @param {Block} block
   * @param {Batches} fresh
   */
  #place(index, block, fresh) {
    const before = this.#shown[index];
    const key = keyOf(block);
    if (before?.key === key) {
      if (block.kind === "table") fresh.skip();
      return;
    }
    const made = this.#make(block, key, fresh);
    this.#shown[index] = made;
    if (before) before.element.replaceWith(made.element);
    else this.#container.append(made.element);
  }

  /**
   * @param {Block} block
   * @param {string} key
   * @param {Batches} fresh
   * @returns {Shown}
   */
  #make(block, key, fresh) {
    switch (block.kind) {
      case "list": {
        const list = element(block.tag, { start: block.tag === "ol" && block.start !== 1 ? block.start : null });
        return { key, element: list, body: list, units: [] };
      }
      case "table": {
        const body = element("tbody");
        const scroller = tableScroller();
        scroller.append(element("table", {}, element("thead", {}, fresh.take()), body));
        return { key, element: scroller, body, units: [] };
      }
      case "code": {
        const { figure, body } = codeFigure(block.language);
        return { key, element: figure, body, units: [] };
      }
      default: {
        const body = element("div", { class: block.kind });
        return { key, element: body, body, units: [] };
      }
    }
  }
}

/** @param {Block} block */
function keyOf(block) {
  switch (block.kind) {
    case "list":
      return `${block.tag} ${block.start}`;
    case "table":
      return `table ${block.head}`;
    case "code":
      return `code ${block.language}`;
    default:
      return block.kind;
  }
}

/**
 * The HTML of a block, each piece one element.
 *
 * @param {Block} block
 */
function htmlOf(block) {
  switch (block.kind) {
    case "html":
      return [block.html];
    case "list":
      return block.units;
    case "table": {
      // A row is one only in a table. The head of a table that goes on is there already.
      const rows = block.units.map((row) => `<table><tbody>${row}</tbody></table>`);
      return block.continues ? rows : [`<table><tbody>${block.head}</tbody></table>`, ...rows];
    }
    default:
      return [];
  }
}

/**
 * Have an element for a unit, the one that is there as far as it is the same.
 *
 * @param {Shown} shown
 * @param {number} index
 * @param {string} source
 * @param {HTMLElement} node
 */
function setUnit({ units, body }, index, source, node) {
  const unit = units[index];
  if (unit) units[index] = { source, node: morph(unit.node, node) };
  else {
    units.push({ source, node });
    body.append(node);
  }
}
