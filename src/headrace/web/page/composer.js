/** The box for messages, and the button beside it: Send, or Stop while an answer is written. */

import { byId } from "./dom.js";
import { isSendKey } from "./keys.js";

export class Composer {
  /**
   * @param {(text: string) => boolean} onSend returns whether it was taken
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
  // Whether it was to be sent before there was a conversation to send it to.
  #isDue = false;
  /** Of what it speaks to; null while that is being opened. @type {string | null} */
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

  /** Leave what it speaks to: the draft stays there, and nothing is sent before something else is open. */
  leave() {
    this.#send.disabled = true;
    this.#isDue = false;
    if (this.#name === null) return; // what is typed meanwhile is for what is open next
    this.#drafts.set(this.#name, this.#box.value);
    this.#box.value = "";
    this.#name = null;
  }

  /** @param {string} name of what it speaks to from now on */
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
    // While an answer is written, the text waits in the box for its end.
    if (!this.#isWriting && !this.#isDue && text.trim() && this.#onSend(text)) this.#box.value = "";
  }
}
