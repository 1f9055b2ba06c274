/** `Notice`: a line above the conversation for problems of the whole page. It shows the newest that still holds. */

import { byId } from "./dom.js";

/** @typedef {{ name: string, press: () => void }} Action */

export class Notice {
  #element = byId("notice", HTMLDivElement);
  #text = byId("notice-text", HTMLParagraphElement);
  #button = byId("notice-button", HTMLButtonElement);
  /** Notices by topic, the newest last. @type {Map<string, { text: string, action: Action }>} */
  #said = new Map();

  constructor() {
    this.#button.addEventListener("click", () => [...this.#said.values()].at(-1)?.action.press());
  }

  /**
   * @param {string} about the topic; replaces an older notice about it
   * @param {string} text
   * @param {Action} [action] a button that solves it; without one, the notice can be dismissed
   */
  show(about, text, action = { name: "Close", press: () => this.hide(about) }) {
    this.#said.delete(about);
    this.#said.set(about, { text, action });
    this.#draw();
  }

  /** @param {string} about */
  hide(about) {
    if (this.#said.delete(about)) this.#draw();
  }

  #draw() {
    const last = [...this.#said.values()].at(-1);
    const text = last?.text ?? "";
    // The same notice is not announced again.
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#button.textContent = last?.action.name ?? "";
    this.#button.hidden = !last;
    this.#element.hidden = !last;
  }
}
