/** `Chunk`: the JSON in the server's events, and its translation into the client's own types. */

/** @import { FinishReason, PromptProgress, TokenPart, Usage } from "./types.js" */

/**
 * @typedef {{ index: number, id?: string, function?: { name?: string, arguments?: string } }} CallDelta
 *
 * @typedef {object} Choice
 * @property {string} [text] in completions
 * @property {{ content?: string | null, reasoning_content?: string | null, tool_calls?: CallDelta[] }} [delta] in chats
 * @property {FinishReason | null} [finish_reason]
 * @property {number | null} [token_index] the number of the token that this chunk completes
 *
 * @typedef {object} WireUsage
 * @property {number} prompt_tokens
 * @property {number} completion_tokens
 * @property {number} total_tokens
 * @property {{ cached_tokens?: number }} [prompt_tokens_details]
 * @property {{ reasoning_tokens?: number }} [completion_tokens_details]
 * @property {number} [cost]
 * @property {string} [cost_currency]
 *
 * @typedef {{ total: number, cache: number, processed: number, time_ms: number }} WireProgress
 *
 * @typedef {object} Chunk
 * @property {string} [model]
 * @property {Choice[]} [choices]
 * @property {WireUsage | null} [usage]
 * @property {WireProgress} [prompt_progress]
 * @property {unknown} [error]
 * @property {{ queue_ms: number, prompt_ms: number, predicted_ms: number, predicted_per_second: number }} [timings]
 */

/** Parse the chunk in an event; null if there is none. @param {string} data @returns {Chunk | null} */
export function chunkOf(data) {
  try {
    const value = JSON.parse(data);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** @param {Choice} choice @returns {TokenPart[]} */
export function partsOf({ text, delta = {} }) {
  /** @type {TokenPart[]} */
  const parts = [];
  if (typeof text === "string") parts.push({ text, kind: "text", toolCall: null });
  if (typeof delta.reasoning_content === "string") {
    parts.push({ text: delta.reasoning_content, kind: "thinking", toolCall: null });
  }
  if (typeof delta.content === "string") parts.push({ text: delta.content, kind: "text", toolCall: null });
  if (delta.tool_calls?.length === 0) parts.push({ text: "", kind: "tool_call", toolCall: null });
  for (const { index, id = null, function: called = {} } of delta.tool_calls ?? []) {
    const toolCall = { index, id, name: called.name ?? null, arguments: called.arguments ?? "" };
    parts.push({ text: toolCall.arguments, kind: "tool_call", toolCall });
  }
  return parts;
}

/** @param {WireUsage} usage @returns {Usage} */
export function usageOf(usage) {
  return {
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: usage.completion_tokens,
    thinkingTokens: usage.completion_tokens_details?.reasoning_tokens ?? 0,
    totalTokens: usage.total_tokens,
    cost: usage.cost ?? null,
    currency: usage.cost_currency ?? null,
  };
}

/** @param {WireProgress} progress @returns {PromptProgress} */
export function progressOf({ total, cache, processed, time_ms: timeMs }) {
  return { total, cached: cache, processed, timeMs };
}
