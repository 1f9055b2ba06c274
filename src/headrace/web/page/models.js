/** `Models`: asks the server for its models until it answers. `ModelChoice`: the select of a model. */

import { AuthenticationError, TextGeneration } from "../headrace.js";
import { problemText } from "./problems.js";

// Milliseconds between tries; the last one is for all further tries.
const PAUSES = [500, 1000, 2000, 5000];
// While a chosen model is missing, because the server may still load it.
const WANTED_MS = 5000;

/**
 * @typedef {object} ModelsEvents
 * @property {(names: string[]) => void} onModels
 * @property {(text: string) => void} onProblem called with the reason of a failed try; another try follows
 * @property {() => void} onKeyNeeded called when the key is refused; no other try follows before `ask` is called
 * @property {() => boolean} isMissing whether a chosen model is missing
 */

export class Models {
  /** @param {ModelsEvents} events */
  constructor(events) {
    this.#events = events;
  }

  #events;
  #round = 0;
  /** @type {number | undefined} */
  #timer;

  /** Ask now, and again until there is an answer. */
  async ask() {
    clearTimeout(this.#timer);
    const round = ++this.#round;
    for (let tries = 0; round === this.#round; tries++) {
      const answer = await this.#tryOnce();
      if (round !== this.#round || answer === "refused") return;
      if (answer === "done" && !this.#events.isMissing()) return;
      if (answer !== "done") this.#events.onProblem(answer);
      const ms = answer === "done" ? WANTED_MS : PAUSES[Math.min(tries, PAUSES.length - 1)];
      await new Promise((resolve) => {
        this.#timer = setTimeout(resolve, ms);
      });
    }
  }

  /** @returns {Promise<string>} "done", "refused", or why it failed */
  async #tryOnce() {
    try {
      const models = await TextGeneration.models();
      if (!models.length) return "The model is being loaded.";
      this.#events.onModels(models.map((model) => model.id));
      return "done";
    } catch (error) {
      if (!(error instanceof AuthenticationError)) return problemText(error);
      this.#events.onKeyNeeded();
      return "refused";
    }
  }
}

/** A select of models. The reader's choice is kept even while that model is missing. */
export class ModelChoice {
  #wish;
  #select;

  /**
   * @param {HTMLSelectElement} select
   * @param {string} [wish]
   * @param {(wish: string) => void} [onWish] called when the reader has chosen
   */
  constructor(select, wish = "", onWish = () => {}) {
    this.#select = select;
    this.#wish = wish;
    select.disabled = true;
    select.addEventListener("change", () => {
      this.#wish = select.value;
      select.title = select.value;
      onWish(select.value);
    });
  }

  /** The name of the chosen model; "" for the server's only one. */
  get value() {
    return this.#select.value || this.#wish;
  }

  /** Whether the chosen model is missing. */
  get isMissing() {
    return this.#wish !== "" && this.#select.value !== this.#wish;
  }

  /**
   * Show the server's models.
   *
   * @param {string[]} names
   * @param {string} [first] the model to take if none was chosen
   * @returns {string} what the reader must know, or ""
   */
  show(names, first = names[0]) {
    const select = this.#select;
    const before = select.value;
    const chosen = [this.#wish, before, first].find((name) => names.includes(name)) ?? names[0];
    // An open list is only redrawn if it has changed.
    if (names.join("\n") !== [...select.options].map(({ value }) => value).join("\n")) {
      select.replaceChildren(...names.map((name) => new Option(name, name)));
    }
    select.value = chosen;
    select.title = chosen;
    select.disabled = false;
    const wanted = this.#wish || before;
    return wanted && wanted !== chosen ? `The model ${wanted} is not served now; ${chosen} is used.` : "";
  }
}
