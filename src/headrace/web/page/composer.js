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

  /** @param {boolean} isReady whether there is a conversation to send to */
  setReady(isReady) {
    this.#send.disabled = !isReady;
  }

  focus() {
    this.#box.focus();
  }

  #submit() {
    const text = this.#box.value;
    // While an answer is written, the text waits in the box for its end.
    if (!this.#isWriting && !this.#send.disabled && text.trim() && this.#onSend(text)) this.#box.value = "";
  }
}
