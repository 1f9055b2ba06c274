/** `Compare`: sends the same messages to two models or settings at once, and shows both answers side by side. */

import { Conversation } from "./conversation.js";
import { button, element } from "./dom.js";
import { Field } from "./fields.js";
import { newId } from "./ids.js";
import { ModelChoice } from "./models.js";
import { NUMBERS, optionsOf } from "./settings.js";
import { Thread } from "./thread.js";

/** @import { Settings } from "./settings.js" */
/** @import { Surroundings } from "./thread.js" */

const SIDE_NUMBERS = NUMBERS.filter(({ name }) => ["temperature", "topP", "maxTokens"].includes(name));

/**
 * @typedef {Pick<Surroundings, "announce" | "onAsk" | "onKeyNeeded" | "onChange">} CompareSurroundings
 */

export class Compare {
  /**
   * @param {() => Settings} settings the settings of both sides, where a side has none of its own
   * @param {CompareSurroundings} surroundings
   */
  constructor(settings, surroundings) {
    this.#sides = ["Left", "Right"].map((name) => new Side(name, settings, surroundings));
    this.element.append(
      element(
        "div",
        { class: "compare-head" },
        element("p", {
          class: "hint",
          text: "Both sides get your messages. What is empty here, and all else, is taken from Settings. Comparisons are not kept.",
        }),
        button("Start over", () => this.#startOver()),
      ),
      element("div", { class: "sides" }, ...this.#sides.map((side) => side.element)),
    );
    // A comparison cannot be resumed, so the server need not go on with it.
    addEventListener("pagehide", () => this.stop());
  }

  #sides;
  element = element("div", { class: "compare" });

  get isWriting() {
    return this.#sides.some((side) => side.thread.isWriting);
  }

  /** Whether a chosen model is missing. */
  get isMissing() {
    return this.#sides.some((side) => side.choice.isMissing);
  }

  /**
   * @param {string[]} names
   * @returns {string} what the reader must know, or ""
   */
  setModels(names) {
    return this.#sides.map((side, index) => side.choice.show(names, names[index])).find((told) => told) ?? "";
  }

  /** @param {string} text */
  send(text) {
    const wrong = this.#sides.flatMap((side) => side.findWrong());
    if (wrong.length) {
      wrong[0].input.focus();
      return false;
    }
    for (const side of this.#sides) {
      side.thread.send(text);
      side.makeRoom();
    }
    return true;
  }

  stop() {
    for (const side of this.#sides) side.thread.stop();
  }

  #startOver() {
    this.stop();
    for (const side of this.#sides) side.startOver();
  }
}

class Side {
  /**
   * @param {string} name
   * @param {() => Settings} settings
   * @param {CompareSurroundings} surroundings
   */
  constructor(name, settings, surroundings) {
    this.#name = name;
    this.#settings = settings;
    this.#surroundings = surroundings;
    this.thread = this.#newThread();
    this.element = element("section", { class: "side", "aria-label": name }, this.#details, this.#place);
  }

  #name;
  #settings;
  #surroundings;
  #model = element("select", { id: newId() });
  choice = new ModelChoice(this.#model);
  #numbers = SIDE_NUMBERS.map(({ name, label }) => new Field(name, { label, isNumber: true }));
  #systemPrompt = new Field("systemPrompt", { label: "System prompt", rows: 1 });
  #details = element(
    "details",
    { class: "side-settings", open: true },
    element("summary", { text: "Settings of this side" }),
    element(
      "div",
      { class: "numbers" },
      element("div", { class: "field model" }, element("label", { for: this.#model.id, text: "Model" }), this.#model),
      ...this.#numbers.map((field) => field.element),
    ),
    this.#systemPrompt.element,
  );
  #place = element("div", { class: "side-thread" });

  /**
   * The fields with a wrong value. Each shows what is wrong.
   *
   * @returns {Field[]}
   */
  findWrong() {
    const wrong = this.#numbers.filter((field) => !field.check());
    if (wrong.length) this.#details.open = true;
    return wrong;
  }

  /** Fold the settings away on small screens. */
  makeRoom() {
    if (matchMedia("(max-width: 719px)").matches) this.#details.open = false;
  }

  startOver() {
    this.thread = this.#newThread();
    this.#surroundings.onChange();
  }

  #newThread() {
    const { announce, onAsk, onChange, onKeyNeeded } = this.#surroundings;
    const thread = new Thread(new Conversation(), {
      label: `${this.#name} conversation`,
      settings: () => this.#merged(),
      keep: () => {},
      onAsk,
      onChange,
      announce: (text) => announce(`${this.#name}: ${text}`),
      onKeyNeeded,
    });
    this.#place.replaceChildren(thread.element);
    return thread;
  }

  #merged() {
    if (this.findWrong().length) return null;
    const merged = { ...this.#settings(), model: this.choice.value };
    for (const field of [...this.#numbers, this.#systemPrompt]) {
      if (field.value.trim()) merged[field.name] = field.value;
    }
    return { options: optionsOf(merged), systemPrompt: merged.systemPrompt };
  }
}
