/** The page's settings: their limits and defaults, how they are stored, and the request options made of them. */

/** @import { LLMGenerationOptions } from "../headrace.js" */

/**
 * The texts of all fields, as typed. An empty text leaves the value to the server.
 *
 * @typedef {Record<SettingName, string>} Settings
 * @typedef {(typeof NUMBERS)[number]["name"]} NumberName
 * @typedef {NumberName | "systemPrompt" | "stopSequences" | "tools" | "apiKey" | "theme" | "model"} SettingName
 *
 * @typedef {{ readonly label: string, readonly min?: number, readonly above?: number, readonly max?: number,
 *   readonly isWhole?: boolean }} Range
 */

const KEY = "headrace.settings";
// Whether the last change could be stored.
let isKept = true;

export const NUMBERS = /** @type {const} */ ([
  { name: "temperature", label: "Temperature", min: 0 },
  { name: "topP", label: "Top p", min: 0, max: 1 },
  { name: "topK", label: "Top k", min: 0, max: Number.MAX_SAFE_INTEGER, isWhole: true },
  { name: "minP", label: "Min p", min: 0, max: 1 },
  { name: "maxTokens", label: "Max tokens", min: 1, max: 2 ** 31 - 1, isWhole: true },
  { name: "seed", label: "Seed", min: 0, max: Number.MAX_SAFE_INTEGER, isWhole: true },
  { name: "repeatPenalty", label: "Repeat penalty", above: 0 },
]);

export const THEMES = ["system", "light", "dark"];

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  systemPrompt: "",
  temperature: "",
  topP: "",
  topK: "",
  minP: "",
  maxTokens: "1024",
  seed: "",
  repeatPenalty: "",
  stopSequences: "",
  tools: "",
  apiKey: "",
  theme: "system",
  model: "",
});

/**
 * Returns the stored settings. Invalid values, which something else must have written, are replaced by defaults.
 *
 * @returns {Settings}
 */
export function loadSettings() {
  return { ...DEFAULTS, ...readable() };
}

/** @returns {Partial<Settings>} */
function readable() {
  /** @type {Partial<Settings>} */
  const settings = {};
  const kept = readObject();
  for (const name of /** @type {SettingName[]} */ (Object.keys(DEFAULTS))) {
    const value = kept[name];
    if (typeof value === "string" && !problemOf(name, value)) settings[name] = value;
  }
  return settings;
}

/**
 * Change settings, and store them if the browser allows it. Changes of other settings by other tabs are kept.
 *
 * @param {Settings} settings
 * @param {Partial<Settings>} changes
 * @returns {Settings} with the changes of other tabs, except for the model, which each tab has for itself
 */
export function changeSettings(settings, changes) {
  const kept = isKept ? { ...settings, ...readable() } : settings;
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...kept, ...changes }));
    isKept = true;
  } catch (error) {
    isKept = false;
    console.info("The settings are not kept:", error);
  }
  return { ...kept, model: settings.model, ...changes };
}

/** @param {() => void} onChange called when another tab has changed the settings */
export function watchSettings(onChange) {
  addEventListener("storage", ({ key }) => (key === KEY || key === null) && onChange());
}

/** @returns {Record<string, unknown>} */
function readObject() {
  try {
    const value = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

/**
 * Returns what is wrong with the text of a field, or "".
 *
 * @param {SettingName} name
 * @param {string} text
 */
export function problemOf(name, text) {
  const range = NUMBERS.find((number) => number.name === name);
  if (range) return problemOfNumber(range, text);
  if (name === "tools") return problemOfTools(text);
  if (name === "theme") return THEMES.includes(text) ? "" : `Theme is “${text}”; allowed: ${THEMES.join(", ")}.`;
  return "";
}

/**
 * @param {Range} range
 * @param {string} text
 */
function problemOfNumber({ label, min = -Infinity, above = -Infinity, max = Infinity, isWhole = false }, text) {
  if (!text.trim()) return "";
  const isNumber = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim());
  const number = Number(text);
  if (isNumber && number >= min && number > above && number <= max && Number.isFinite(number)) {
    if (!isWhole || Number.isSafeInteger(number)) return "";
  }
  const kind = isWhole ? "a whole number" : "a number";
  const low = above > -Infinity ? `above ${above}` : `from ${min}`;
  return `${label} is “${text}”; allowed: ${kind} ${low}${max < Infinity ? ` to ${max}` : ""}, or nothing.`;
}

/** @param {string} text */
function problemOfTools(text) {
  if (!text.trim()) return "";
  const allowed = "allowed: a JSON list of tools in OpenAI's format, or nothing.";
  try {
    const tools = JSON.parse(text);
    if (!Array.isArray(tools)) return `Tools is no list; ${allowed}`;
    const isTool = (/** @type {any} */ tool) => tool?.type === "function" && typeof tool.function?.name === "string";
    const wrong = tools.findIndex((tool) => !isTool(tool));
    if (wrong < 0) return "";
    return `Tools[${wrong}] has no {"type": "function", "function": {"name": …}}; ${allowed}`;
  } catch (error) {
    return `Tools is not JSON (${error instanceof Error ? error.message : error}); ${allowed}`;
  }
}

/**
 * Returns the request options. All texts must be valid.
 *
 * @param {Settings} settings
 * @returns {LLMGenerationOptions}
 */
export function optionsOf(settings) {
  /** @type {LLMGenerationOptions} */
  const options = {};
  for (const { name } of NUMBERS) {
    if (settings[name].trim()) options[name] = Number(settings[name]);
  }
  const stops = settings.stopSequences.split("\n").filter((line) => line);
  if (stops.length) options.stopSequences = stops;
  const tools = settings.tools.trim() ? JSON.parse(settings.tools) : [];
  if (tools.length) options.tools = tools;
  if (settings.model) options.model = settings.model;
  return options;
}
