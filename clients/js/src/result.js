/** The result of a stream: the answer, why it ended, and how long it took. */

/** @import { Answer } from "./answer.js" */
/** @import { FinishReason, LLMGenerationResult } from "./types.js" */

/**
 * @param {Answer} answer
 * @param {FinishReason | null} finishReason null where the stream has not come to its end
 * @param {{ id: string, startedAt: number, hasSchema: boolean }} stream
 * @returns {LLMGenerationResult}
 */
export function resultOf(answer, finishReason, { id, startedAt, hasSchema }) {
  const { text, thinking, toolCalls, usage, timings, tokensPerSecond, firstTime, model } = answer;
  return {
    text,
    thinking,
    toolCalls: toolCalls.map((call) => ({ ...call })),
    parsed: hasSchema && finishReason === "stop" ? parsedOf(text) : null,
    finishReason,
    tokensUsed: usage.completionTokens,
    tokensPerSecond,
    latencyMs: rounded(performance.now() - startedAt),
    timeToFirstTokenMs: firstTime === null ? null : rounded(firstTime - startedAt),
    usage,
    timings,
    model,
    id,
  };
}

/** The value of a JSON text; null where the text is cut off, as by a stop sequence. @param {string} text */
function parsedOf(text) {
  try {
    return /** @type {unknown} */ (JSON.parse(text));
  } catch {
    return null;
  }
}

/** Rounds to tenths of a millisecond: browsers' clocks are no finer than that. @param {number} ms */
function rounded(ms) {
  return Math.round(ms * 10) / 10;
}
