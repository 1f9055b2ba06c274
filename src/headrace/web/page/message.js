/** `MessageView`: a message of the reader on the screen, which can be edited. */

import { button, element } from "./dom.js";
import { isSendKey } from "./keys.js";

export class MessageView {
  /**
   * @param {string} text
   * @param {(text: string) => string} onEdit called with the edited text; returns why it was not sent, or ""
   */
  constructor(text, onEdit) {
    this.#text = text;
    this.#onEdit = onEdit;
    this.element = element("article", { class: "you", "aria-label": "You" });
    this.#show();
  }

  #text;
  #onEdit;
  #edit = button("Edit message", () => this.#startEditing(), { class: "quiet edit" });

  #show() {
    this.element.replaceChildren(
      element("div", { class: "you-text", dir: "auto", text: this.#text }),
      element("div", { class: "actions" }, this.#edit),
    );
  }

  #startEditing() {
    const input = element("textarea", { "aria-label": "Edit message", class: "edit-text", rows: 2, dir: "auto" });
    input.value = this.#text;
    const problem = element("p", { class: "field-problem", role: "alert" });
    const send = () => {
      if (input.value.trim()) problem.textContent = this.#onEdit(input.value);
      if (problem.textContent) problem.isConnected || input.after(problem);
      else input.focus();
    };
    const cancel = () => {
      this.#show();
      this.#edit.focus();
    };
    const form = element(
      "div",
      { class: "edit-form" },
      input,
      element("div", { class: "edit-buttons" }, button("Cancel", cancel), button("Save and send", send)),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        cancel();
      } else if (event.target === input && isSendKey(event)) {
        event.preventDefault();
        send();
      }
    });
    this.element.replaceChildren(form);
    input.focus();
    input.setSelectionRange(input.value.length, input.value.length);
  }

  /** Remove the view for good. */
  destroy() {
    this.element.remove();
  }
}
