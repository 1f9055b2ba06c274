/** Makes HTML safe piece by piece, and several pieces in one call where they will be needed one after the other. */

import { element } from "./dom.js";
import { BATCH } from "./markdown-limits.js";

/** @import { Sanitise } from "./markdown-safe.js" */

export class Batches {
  /**
   * @param {string[]} pieces each of them one element
   * @param {Sanitise} sanitise
   */
  constructor(pieces, sanitise) {
    this.#pieces = pieces;
    this.#sanitise = sanitise;
  }

  #pieces;
  #sanitise;
  #position = 0;
  /** @type {HTMLElement[]} of the pieces from this position on */
  #ready = [];

  /** Leave out a piece. */
  skip() {
    this.#position += 1;
    this.#ready.shift();
  }

  /** The element of the next piece; for the table of one row, that row. */
  take() {
    if (this.#ready.length === 0) this.#ready = this.#next();
    this.#position += 1;
    const [made] = this.#ready.splice(0, 1);
    return made.tagName === "TABLE" ? (made.querySelector("tr") ?? made) : made;
  }

  #next() {
    let end = this.#position;
    let length = 0;
    do {
      length += this.#pieces[end].length;
      end += 1;
    } while (end < this.#pieces.length && length + this.#pieces[end].length <= BATCH);
    const pieces = this.#pieces.slice(this.#position, end);
    const made = elementsOf(this.#sanitise(pieces.join("")));
    if (made.length === pieces.length) return made;
    // Pieces that run into each other, or that nothing is left of: each for itself.
    return pieces.map((piece) => {
      const [only, ...others] = elementsOf(this.#sanitise(piece));
      return only && others.length === 0 ? only : element("div", {}, this.#sanitise(piece));
    });
  }
}

/** @param {DocumentFragment} fragment */
function elementsOf(fragment) {
  const nodes = [...fragment.childNodes];
  return nodes.filter((node) => node instanceof HTMLElement);
}
