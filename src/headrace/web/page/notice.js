/** A line above the conversation that says what concerns the page as a whole. */

import { byId } from "./dom.js";

export class Notice {
  #element = byId("notice", HTMLDivElement);
  #text = byId("notice-text", HTMLParagraphElement);
  #button = byId("notice-button", HTMLButtonElement);
  #onPress = () => this.hide();

  constructor() {
    this.#button.addEventListener("click", () => this.#onPress());
  }

  /**
   * @param {string} text
   * @param {{ name: string, press: () => void }} [action] what can be done about it; otherwise it can be put away
   */
  show(text, action = { name: "Close", press: () => this.hide() }) {
    // What is said already is not said again.
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#button.textContent = action.name;
    this.#button.hidden = false;
    this.#onPress = action.press;
    this.#element.hidden = false;
  }

  hide() {
    this.#element.hidden = true;
    this.#text.textContent = "";
  }
}
