/** `Composer`: the message box, and its button: Send, or Stop while an answer is written. */

import { byId } from "./dom.js";
import { isSendKey } from "./keys.js";

export class Composer {
  /**
   * @param {(text: string) => boolean} onSend returns whether the text was sent
   * @param {() => void} onStop
   */
  constructor(onSend, onStop) {
    this.#onSend = onSend;
    this.#stop.addEventListener("click", () => {
      onStop();
      this.focus();
    });
    this.#send.addEventListener("click", () => this.#submit());
    this.#box.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      this.#submit();
    });
  }

  #onSend;
  #isWriting = false;
  // Whether the reader pressed Send while the conversation was still being opened.
  #isDue = false;
  /** Name of the open view; null while it is being opened. @type {string | null} */
  #name = null;
  /** @type {Map<string, string>} */
  #drafts = new Map();
  #box = byId("message", HTMLTextAreaElement);
  #send = byId("send", HTMLButtonElement);
  #stop = byId("stop", HTMLButtonElement);

  /** @param {boolean} isWriting */
  setWriting(isWriting) {
    if (isWriting === this.#isWriting) return;
    this.#isWriting = isWriting;
    const hadFocus = this.#stop === document.activeElement || this.#send === document.activeElement;
    this.#send.hidden = isWriting;
    this.#stop.hidden = !isWriting;
    if (hadFocus) this.focus();
  }

  /** Leave the open view. Its draft is kept, and nothing is sent until another view is open. */
  leave() {
    this.#send.disabled = true;
    this.#isDue = false;
    if (this.#name === null) return; // text typed meanwhile is for the next view
    this.#drafts.set(this.#name, this.#box.value);
    this.#box.value = "";
    this.#name = null;
  }

  /** @param {string} name of the view that messages go to from now on */
  open(name) {
    this.#name = name;
    this.#send.disabled = false;
    const draft = this.#drafts.get(name);
    this.#drafts.delete(name);
    if (draft) this.#box.value = draft + this.#box.value;
    else if (this.#isDue) this.#submit();
    this.#isDue = false;
  }

  focus() {
    this.#box.focus();
  }

  #submit() {
    const text = this.#box.value;
    this.#isDue = this.#send.disabled;
    // While an answer is written, the text stays in the box.
    if (!this.#isWriting && !this.#isDue && text.trim() && this.#onSend(text)) this.#box.value = "";
  }
}
