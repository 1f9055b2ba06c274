/** `Answer`: accumulates the chunks of a stream into a result, and assembles tokens from them. */

import { partsOf, usageOf } from "./chunk.js";

/** @import { Chunk } from "./chunk.js" */
/** @import { FinishReason, StreamToken, Timings, TokenPart, ToolCall, ToolCallDelta, Usage } from "./types.js" */

export class Answer {
  text = "";
  /** @type {string | null} */
  thinking = null;
  /** @type {ToolCall[]} */
  toolCalls = [];
  model = "";
  /** @type {FinishReason | null} */
  finishReason = null;
  /** @type {Timings | null} */
  timings = null;
  /** When the first token was complete. @type {number | null} */
  firstTime = null;
  /** When the latest token was complete. */
  #lastTime = 0;
  #numTokens = 0;
  /** Tokens per second, as measured by the server. @type {number | null} */
  #speed = null;
  /** Token counts from the server. @type {Usage | null} */
  #usage = null;
  /** Parts of the next token, whose last chunk is yet to come. @type {TokenPart[]} */
  #parts = [];

  /** The server's token counts, or the client's own until those have come. @returns {Usage} */
  get usage() {
    const unknown = { promptTokens: null, cachedTokens: null, totalTokens: null, cost: null, currency: null };
    return this.#usage ?? { ...unknown, completionTokens: this.#numTokens, thinkingTokens: 0 };
  }

  get tokensPerSecond() {
    if (this.#speed !== null) return this.#speed;
    const seconds = (this.#lastTime - (this.firstTime ?? 0)) / 1000;
    return this.#numTokens > 1 && seconds > 0 ? (this.#numTokens - 1) / seconds : 0;
  }

  /**
   * Add a chunk.
   *
   * @param {Chunk} chunk
   * @returns {StreamToken | null} the token that the chunk completes
   */
  take(chunk) {
    this.model ||= chunk.model ?? "";
    if (chunk.usage) this.#usage = usageOf(chunk.usage);
    if (chunk.timings) {
      const { queue_ms: queueMs, prompt_ms: prefillMs, predicted_ms: decodeMs } = chunk.timings;
      this.timings = { queueMs, prefillMs, decodeMs };
      this.#speed = chunk.timings.predicted_per_second;
    }
    const choice = chunk.choices?.[0];
    if (choice === undefined) return null;
    for (const part of partsOf(choice)) this.#add(part);
    if (choice.finish_reason) this.#finish(choice.finish_reason);
    return choice.token_index === undefined || choice.token_index === null ? null : this.#token(choice.token_index);
  }

  /** Make the extra token that follows the sampled ones. @returns {StreamToken} */
  lastToken() {
    const index = this.#numTokens;
    return { text: "", kind: "text", index, timestamp: Date.now(), isLast: true, toolCall: null, rest: [] };
  }

  /** @param {TokenPart} part */
  #add(part) {
    if (part.kind === "thinking") this.thinking = (this.thinking ?? "") + part.text;
    else if (part.kind === "text") this.text += part.text;
    else if (part.toolCall !== null) this.#addToCall(part.toolCall);
    this.#addToToken(part);
  }

  /**
   * Add a part to the next token: join it to the token's last part if both have the same kind and tool call.
   *
   * @param {TokenPart} part
   */
  #addToToken(part) {
    const last = this.#parts.at(-1);
    if (last === undefined || last.kind !== part.kind || last.toolCall?.index !== part.toolCall?.index) {
      if (last?.text === "" && last.toolCall === null) this.#parts.pop();
      this.#parts.push(part);
      return;
    }
    last.text += part.text;
    if (last.toolCall && part.toolCall) last.toolCall.arguments += part.toolCall.arguments;
  }

  /** @param {ToolCallDelta} delta */
  #addToCall(delta) {
    const call = this.toolCalls[delta.index];
    if (call !== undefined) {
      call.arguments += delta.arguments;
      return;
    }
    const before = this.toolCalls.at(-1);
    if (before !== undefined) before.isComplete = true;
    this.toolCalls.push({ id: delta.id ?? "", name: delta.name ?? "", arguments: delta.arguments, isComplete: false });
  }

  /** @param {FinishReason} reason */
  #finish(reason) {
    this.finishReason = reason;
    const call = this.toolCalls.at(-1);
    if (call !== undefined) call.isComplete = reason === "tool_calls";
  }

  /** Make a token from the parts so far. @param {number} index @returns {StreamToken} */
  #token(index) {
    const [first, ...rest] = this.#parts;
    this.#parts = [];
    this.#numTokens = index + 1;
    this.#lastTime = performance.now();
    this.firstTime ??= this.#lastTime;
    const { text, kind, toolCall } = first ?? { text: "", kind: /** @type {const} */ ("text"), toolCall: null };
    return { text, kind, index, timestamp: Date.now(), isLast: false, toolCall, rest };
  }
}
