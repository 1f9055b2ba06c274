/** `Picture`: the elements of one text. It changes them to match the blocks, and leaves equal elements alone. */

import { codeFigure } from "./code-block.js";
import { element } from "./dom.js";
import { Batches } from "./markdown-batches.js";
import { GROUP } from "./markdown-limits.js";
import { morph } from "./markdown-morph.js";
import { tableScroller } from "./markdown-safe.js";

/** @import { Block } from "./markdown-blocks.js" */
/** @import { Sanitise } from "./markdown-safe.js" */

/**
 * A block on the page. Its units are items, rows or parts of a text. A few paragraphs and similar are one group.
 *
 * @typedef {object} Shown
 * @property {string} key blocks with different keys are never reused for each other
 * @property {HTMLElement} element
 * @property {HTMLElement} body the parent of the units
 * @property {{ source: string, node: HTMLElement }[]} units
 */

export class Picture {
  /** @param {HTMLElement} container */
  constructor(container) {
    this.#container = container;
  }

  /** Sanitizes HTML; must be set before the first block with HTML. @type {Sanitise} */
  sanitise = () => {
    throw new Error("nothing was given that makes HTML safe");
  };

  #container;
  /** @type {Shown[]} */
  #shown = [];
  // The number of settled blocks, and of settled units in the last of them.
  #numBlocks = 0;
  #numUnits = 0;
  #numSanitised = 0;

  /** How many characters of HTML were sanitized. */
  get numSanitised() {
    return this.#numSanitised;
  }

  /** Draw again from the start. Elements stay until their content turns out to be different. */
  restart() {
    this.#numBlocks = 0;
    this.#numUnits = 0;
  }

  /**
   * Show blocks after the settled ones.
   *
   * @param {Block[]} blocks
   * @param {number} numSettled how many of them never change again
   * @param {boolean} isEnd whether no blocks follow
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
          // Each part of a text is its own element, so that only the last one is laid out again when it grows.
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
   * Remove the units that a block no longer has.
   *
   * @param {number} count the number of blocks up to this one
   * @param {number} numUnits
   */
  #trim(count, numUnits) {
    for (const { node } of this.#shown[count - 1]?.units.splice(numUnits) ?? []) node.remove();
  }

  /**
   * Returns an element for a block; reuses the one at its place if it has the same key.
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
 * Returns the HTML of a block, one element per piece.
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
      // A row is only parsed inside a table. The head of a continued table is on the page already.
      const rows = block.units.map((row) => `<table><tbody>${row}</tbody></table>`);
      return block.continues ? rows : [`<table><tbody>${block.head}</tbody></table>`, ...rows];
    }
    default:
      return [];
  }
}

/**
 * Returns an element for a unit; reuses the equal parts of the one at its place.
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
