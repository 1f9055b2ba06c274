/** `SettingsDialog`: "Done" applies the changes, Esc discards them. */

import { button, element } from "./dom.js";
import { Field } from "./fields.js";
import { DEFAULTS, NUMBERS } from "./settings.js";

/** @import { Settings } from "./settings.js" */

const NUMBER_HINTS = {
  temperature: "0 takes the likeliest token each time.",
  seed: "The same seed repeats an answer.",
};

export class SettingsDialog {
  /**
   * @param {(changes: Partial<Settings>) => void} onDone called with the changed settings
   * @param {(theme: string) => void} onTheme called with the theme to preview while it is chosen
   */
  constructor(onDone, onTheme) {
    this.#onDone = onDone;
    this.#onTheme = onTheme;
    this.#theme.input.addEventListener("change", () => onTheme(this.#theme.value));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#finish();
    });
    this.element.addEventListener("cancel", () => this.#onTheme(this.#before.theme));
  }

  #onDone;
  #onTheme;
  #before = { ...DEFAULTS };
  #theme = new Field("theme", { label: "Theme", choices: { system: "System", light: "Light", dark: "Dark" } });
  #apiKey = new Field("apiKey", { label: "API key", isSecret: true });
  #numbers = NUMBERS.map(({ name, label }) => {
    const hint = Object.entries(NUMBER_HINTS).find(([key]) => key === name)?.[1];
    return new Field(name, { label, hint, isNumber: true });
  });
  #fields = [
    new Field("systemPrompt", { label: "System prompt", rows: 3 }),
    ...this.#numbers,
    new Field("stopSequences", { label: "Stop sequences", rows: 2, hint: "One a line. Empty lines do not count." }),
    new Field("tools", { label: "Tools (JSON)", rows: 3, hint: "A list in OpenAI's format." }),
    this.#apiKey,
    this.#theme,
  ];
  #form = element(
    "form",
    { novalidate: true },
    element("h2", { text: "Settings" }),
    element("p", { class: "hint", text: "What is left empty, the server decides." }),
    this.#fields[0].element,
    element("div", { class: "numbers" }, ...this.#numbers.map((field) => field.element)),
    ...this.#fields.slice(1 + this.#numbers.length).map((field) => field.element),
    element(
      "div",
      { class: "dialog-buttons" },
      button("Reset", () => this.#reset()),
      element("button", { type: "submit", class: "primary", text: "Done" }),
    ),
  );
  element = element("dialog", { class: "settings", "aria-label": "Settings" }, this.#form);

  get isOpen() {
    return this.element.open;
  }

  /**
   * @param {Settings} settings
   * @param {string} [keyNote] why an API key is asked for; the dialog then opens at that field
   */
  open(settings, keyNote = "") {
    if (!this.isOpen) {
      this.#before = settings;
      for (const field of this.#fields) field.value = settings[field.name];
      this.element.showModal();
    }
    const first = keyNote ? this.#apiKey : this.#fields[0];
    this.#apiKey.say(keyNote);
    first.input.focus();
  }

  #finish() {
    const wrong = this.#fields.filter((field) => !field.check());
    if (wrong.length) {
      wrong[0].input.focus();
      return;
    }
    const changed = this.#fields.filter(({ name, value }) => value !== this.#before[name]);
    this.element.close();
    this.#onDone(Object.fromEntries(changed.map(({ name, value }) => [name, value])));
  }

  #reset() {
    for (const field of this.#fields) field.value = DEFAULTS[field.name];
    this.#onTheme(DEFAULTS.theme);
  }
}
