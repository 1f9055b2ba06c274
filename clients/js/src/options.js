/** The options of a stream: checks their values, and translates their names for requests. */

import { invalidValue, unknownName } from "./invalid-request.js";
import { LONGEST_TIMEOUT } from "./timeouts.js";

/** @import { LLMGenerationOptions } from "./types.js" */

/** Options of completions and chats, with their names in a request. @type {Record<string, string>} */
const SAMPLING = {
  maxTokens: "max_tokens",
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  seed: "seed",
  stopSequences: "stop",
  repeatPenalty: "repeat_penalty",
  frequencyPenalty: "frequency_penalty",
  presencePenalty: "presence_penalty",
  logitBias: "logit_bias",
  ignoreEos: "ignore_eos",
  jsonSchema: "json_schema",
  regex: "regex",
  grammar: "grammar",
  thinking: "thinking",
  thinkingBudget: "thinking_budget",
  thinkingTags: "thinking_tags",
  resumable: "resumable",
};
/** Options of chats only, with their names in a request. @type {Record<string, string>} */
const CHAT_ONLY = {
  reasoningEffort: "reasoning_effort",
  tools: "tools",
  toolChoice: "tool_choice",
  parallelToolCalls: "parallel_tool_calls",
  chatTemplateKwargs: "chat_template_kwargs",
  continueFinalMessage: "continue_final_message",
};
/** Options that are not sent, with their types. @type {Record<string, string>} */
const LOCAL = {
  systemPrompt: "string",
  model: "string",
  signal: "object",
  requestId: "string",
  reconnectTimeoutMs: "number",
  idleTimeoutMs: "number",
  onProgress: "function",
  onConnection: "function",
};
/** Options of `resumeStream`. */
const RESUMING = /** @type {const} */ ([
  "idleTimeoutMs",
  "jsonSchema",
  "onConnection",
  "onProgress",
  "reconnectTimeoutMs",
  "signal",
]);

/** @typedef {Pick<LLMGenerationOptions, (typeof RESUMING)[number]>} ResumingOptions */

/**
 * Check the options of a new stream.
 *
 * @param {LLMGenerationOptions} options
 * @param {boolean} isChat
 * @returns the options that are sent, by their names in a request
 */
export function bodyOf(options, isChat) {
  const names = isChat ? { ...SAMPLING, ...CHAT_ONLY } : SAMPLING;
  return checked(options, names, [...Object.keys(names), ...Object.keys(LOCAL)].sort(), (name) =>
    !isChat && Object.hasOwn(CHAT_ONLY, name)
      ? "it is for chats, or prompts with a systemPrompt"
      : "there is no such option",
  );
}

/**
 * Check the options of `resumeStream`.
 *
 * @param {ResumingOptions} options
 */
export function checkResuming(options) {
  checked(options, { ...SAMPLING, ...CHAT_ONLY }, RESUMING, () => "there is no such option");
}

/**
 * @param {LLMGenerationOptions} options
 * @param {Record<string, string>} names of options that are sent, to their names in a request
 * @param {readonly string[]} allowed the names of all options that are allowed
 * @param {(name: string) => string} whyNot gives the reason why a name is not allowed
 * @returns {Record<string, unknown>} the options that are sent, by their names in a request
 */
function checked(options, names, allowed, whyNot) {
  if (typeof options !== "object" || options === null) throw invalidValue("options", options, "an object");
  /** @type {Record<string, unknown>} */
  const body = {};
  for (const [option, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    if (!allowed.includes(option)) throw unknownName(option, whyNot(option), allowed);
    const name = names[option];
    if (name === undefined) {
      checkLocal(option, value);
    } else {
      checkJson(option, value);
      body[name] = value;
    }
  }
  return body;
}

/**
 * Check the value of an option that is not sent.
 *
 * @param {string} name
 * @param {unknown} value
 */
function checkLocal(name, value) {
  if (typeof value !== LOCAL[name]) throw invalidValue(name, value, `a ${LOCAL[name]}`);
  if (name === "signal" && !(value instanceof AbortSignal)) throw invalidValue(name, value, "an AbortSignal");
  if (name === "requestId" && !/^[\w.:=+@-]{1,128}$/.test(String(value))) {
    throw invalidValue(name, value, "1 to 128 letters, digits and . _ : = + @ -");
  }
  if (name.endsWith("Ms") && !(Number(value) >= 0 && Number(value) <= LONGEST_TIMEOUT)) {
    throw invalidValue(name, value, `milliseconds, 0 to ${LONGEST_TIMEOUT}`);
  }
}

/**
 * Refuse a value that JSON cannot represent: `JSON.stringify` would silently drop it or write null.
 *
 * @param {string} name
 * @param {unknown} value
 */
function checkJson(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw invalidValue(name, value, "a finite number");
  let json;
  try {
    json = JSON.stringify(value);
  } catch {
    // a BigInt, or an object that contains itself
  }
  if (json === undefined) throw invalidValue(name, value, "a value that JSON can say");
}
