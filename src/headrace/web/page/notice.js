/** A line above the conversation that says what concerns the page as a whole: the last thing that is still so. */

import { byId } from "./dom.js";

/** @typedef {{ name: string, press: () => void }} Action */

export class Notice {
  #element = byId("notice", HTMLDivElement);
  #text = byId("notice-text", HTMLParagraphElement);
  #button = byId("notice-button", HTMLButtonElement);
  /** By what they are about, the last one last. @type {Map<string, { text: string, action: Action }>} */
  #said = new Map();

  constructor() {
    this.#button.addEventListener("click", () => [...this.#said.values()].at(-1)?.action.press());
  }

  /**
   * @param {string} about what it is about; takes the place of what was said of that before
   * @param {string} text
   * @param {Action} [action] what can be done about it; otherwise it can be put away
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
    // What is said already is not said again.
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#button.textContent = last?.action.name ?? "";
    this.#button.hidden = !last;
    this.#element.hidden = !last;
  }
}
