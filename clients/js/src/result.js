/** Makes the result of a stream: the answer, its finish reason, token counts and times. */

/** @import { Answer } from "./answer.js" */
/** @import { FinishReason, LLMGenerationResult } from "./types.js" */

/**
 * @param {Answer} answer
 * @param {FinishReason | null} finishReason null if the stream has not ended
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

/** Parse JSON; null if the text is cut off, for example by a stop sequence. @param {string} text */
function parsedOf(text) {
  try {
    return /** @type {unknown} */ (JSON.parse(text));
  } catch {
    return null;
  }
}

/** Round to 0.1 ms, the resolution of browsers' clocks. @param {number} ms */
function rounded(ms) {
  return Math.round(ms * 10) / 10;
}
