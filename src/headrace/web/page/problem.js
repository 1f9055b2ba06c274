/** `ProblemView`: why an answer failed, a countdown to the next useful try, and a button to try again. */

import { button, element } from "./dom.js";

export class ProblemView {
  /** @param {() => void} onRetry */
  constructor(onRetry) {
    this.#onRetry = onRetry;
  }

  element = element("div", { class: "problem-place" });
  #onRetry;
  /** When to try again; on the clock of `performance.now`. */
  #retryAt = 0;

  /**
   * Show with the next problem when to try again.
   *
   * @param {number | null} ms
   */
  countDown(ms) {
    this.#retryAt = performance.now() + (ms ?? 0);
  }

  /** @param {string} text */
  show(text) {
    const countdown = element("span", { class: "countdown", "aria-live": "off" });
    this.element.replaceChildren(
      element(
        "div",
        { class: "problem", role: "alert" },
        element("p", {}, `${text} `, countdown),
        button("Try again", this.#onRetry),
      ),
    );
    this.#tick(countdown);
  }

  /** @param {HTMLElement} countdown */
  #tick(countdown) {
    const seconds = Math.ceil((this.#retryAt - performance.now()) / 1000);
    if (seconds <= 0) {
      if (countdown.textContent) countdown.textContent = "You can try again now.";
      return;
    }
    countdown.textContent = `You can try again in ${seconds} s.`;
    setTimeout(() => this.#tick(countdown), 1000);
  }
}
