/** What models there are: asked for until the server tells them. */

import { AuthenticationError, TextGeneration } from "../headrace.js";
import { problemText } from "./problems.js";

// Milliseconds between two tries; the last one for all that follow.
const PAUSES = [500, 1000, 2000, 5000];

/**
 * @typedef {object} ModelsEvents
 * @property {(names: string[]) => void} onModels
 * @property {(text: string) => void} onProblem with what stands in the way; it is tried again
 * @property {() => void} onKeyNeeded it is not tried again before somebody calls `ask`
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
      if (round !== this.#round || answer === "done") return;
      if (answer) this.#events.onProblem(answer);
      await new Promise((resolve) => {
        this.#timer = setTimeout(resolve, PAUSES[Math.min(tries, PAUSES.length - 1)]);
      });
    }
  }

  /** @returns {Promise<string>} "done", or what stands in the way */
  async #tryOnce() {
    try {
      const models = await TextGeneration.models();
      if (!models.length) return "The model is being loaded.";
      this.#events.onModels(models.map((model) => model.id));
      return "done";
    } catch (error) {
      if (!(error instanceof AuthenticationError)) return problemText(error);
      this.#events.onKeyNeeded();
      return "done";
    }
  }
}

/**
 * Fill a select with names, and choose one of them.
 *
 * @param {HTMLSelectElement} select
 * @param {string[]} names
 * @param {string} chosen the first one is taken where it is not there
 */
export function fillModels(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  select.value = names.includes(chosen) ? chosen : (names[0] ?? "");
  select.disabled = !names.length;
}
