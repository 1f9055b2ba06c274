/** `Batches`: sanitizes pieces of HTML, several in one call where they are needed one after the other. */

import { element } from "./dom.js";
import { BATCH } from "./markdown-limits.js";

/** @import { Sanitise } from "./markdown-safe.js" */

export class Batches {
  /**
   * @param {string[]} pieces the HTML of one element each
   * @param {Sanitise} sanitise
   */
  constructor(pieces, sanitise) {
    this.#pieces = pieces;
    this.#sanitise = sanitise;
  }

  #pieces;
  #sanitise;
  #position = 0;
  /** @type {HTMLElement[]} elements of the pieces from `#position` on */
  #ready = [];

  /** Skip a piece. */
  skip() {
    this.#position += 1;
    this.#ready.shift();
  }

  /** Returns the element of the next piece; for a table of one row, its row. */
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
    // Some pieces merged, or nothing is left of them: sanitize each by itself.
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
