/** What models there are, asked for until the server tells them; and which one is chosen. */

import { AuthenticationError, TextGeneration } from "../headrace.js";
import { problemText } from "./problems.js";

// Milliseconds between two tries; the last one for all that follow.
const PAUSES = [500, 1000, 2000, 5000];
// While a model that is wanted is not there: the server may still load it.
const WANTED_MS = 5000;

/**
 * @typedef {object} ModelsEvents
 * @property {(names: string[]) => void} onModels
 * @property {(text: string) => void} onProblem with what stands in the way; it is tried again
 * @property {() => void} onKeyNeeded it is not tried again before somebody calls `ask`
 * @property {() => boolean} isMissing whether one is wanted that is not there
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

  /** Ask now, and go on asking until there is an answer. */
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

  /** @returns {Promise<string>} "done", "refused", or what stands in the way */
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

/** A select of models: what the reader wishes for is kept apart from what there is. */
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

  /** The name of the model to ask; "" for whatever there is. */
  get value() {
    return this.#select.value || this.#wish;
  }

  /** Whether the model that is wished for is not there. */
  get isMissing() {
    return this.#wish !== "" && this.#select.value !== this.#wish;
  }

  /**
   * Say what models there are.
   *
   * @param {string[]} names
   * @param {string} [first] the one to take where nothing was chosen
   * @returns {string} what the reader has to know of it, or ""
   */
  show(names, first = names[0]) {
    const select = this.#select;
    const before = select.value;
    const chosen = [this.#wish, before, first].find((name) => names.includes(name)) ?? names[0];
    // An open list is not drawn anew for nothing.
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
