/** `useStreamingGenerate`: a React hook that streams an answer into a component. */

import { useCallback, useEffect, useRef, useState } from "react";

import { TextGeneration } from "./headrace.js";

/** @import { LLMGenerationOptions, LLMGenerationResult, LLMStreamingResult, TextGenerationClient } from "./headrace.js" */

/**
 * The state of a component's stream.
 *
 * @typedef {object} StreamingState
 * @property {string} text the answer so far
 * @property {boolean} isStreaming whether more text may come
 * @property {Error | null} error the error of the last stream, if it failed; `text` keeps what had come
 * @property {LLMGenerationResult | null} metrics the result of the last stream, once it has ended
 */

/**
 * The functions that start and end a stream. They stay the same from render to render.
 *
 * @typedef {object} StreamingActions
 * @property {(prompt: string, options?: LLMGenerationOptions) => Promise<LLMGenerationResult>} generate starts a stream,
 *   and cancels the one before it; resolves to the result, or rejects with the error that is also in `error`
 * @property {() => void} cancel ends the stream; its `generate` resolves to a result with the finishReason "cancelled"
 */

/** @type {StreamingState} */
const IDLE = { text: "", isStreaming: false, error: null, metrics: null };
/**
 * The result of a stream that was cancelled before the server had accepted it.
 *
 * @type {LLMGenerationResult}
 */
const NEVER_STARTED = {
  text: "",
  thinking: null,
  toolCalls: [],
  parsed: null,
  finishReason: "cancelled",
  tokensUsed: 0,
  tokensPerSecond: 0,
  latencyMs: 0,
  timeToFirstTokenMs: null,
  usage: {
    promptTokens: null,
    cachedTokens: null,
    completionTokens: 0,
    thinkingTokens: 0,
    totalTokens: null,
    cost: null,
    currency: null,
  },
  timings: null,
  model: "",
  id: "",
};
const FRAME_MS = 16; // between renders where animation frames do not exist

/**
 * Streams answers to prompts. The component renders at most once per animation frame, however fast the tokens come.
 * Unmounting it cancels its stream.
 *
 * @param {TextGenerationClient} [client] by default `TextGeneration`
 * @returns {StreamingState & StreamingActions}
 */
export function useStreamingGenerate(client = TextGeneration) {
  const [state, setState] = useState(IDLE);
  const current = useRef(/** @type {Run | null} */ (null));

  const cancel = useCallback(() => current.current?.cancel(), []);

  const generate = useCallback(
    /** @type {StreamingActions["generate"]} */
    async (prompt, options = {}) => {
      cancel();
      const run = new Run();
      current.current = run;
      let text = "";
      /** @param {Partial<StreamingState>} change */
      const show = (change) => {
        // Only the newest run may change the state, and none after the component is unmounted.
        if (current.current === run) setState((before) => ({ ...before, ...change }));
      };
      const frame = new Frame(() => show({ text }));
      show({ ...IDLE, isStreaming: true });
      try {
        const result = await run.read(client, prompt, options, (piece) => {
          text += piece;
          frame.request();
        });
        show({ metrics: result });
        return result;
      } catch (error) {
        show({ error: error instanceof Error ? error : new Error(String(error), { cause: error }) });
        throw error;
      } finally {
        frame.cancel();
        show({ text, isStreaming: false });
        if (current.current === run) current.current = null;
      }
    },
    [cancel, client],
  );

  useEffect(
    () => () => {
      const run = current.current;
      current.current = null;
      run?.cancel();
    },
    [],
  );

  return { ...state, generate, cancel };
}

/** One call of `generate`. Can be cancelled without an error, even before the server has accepted the stream. */
class Run {
  /** Aborts the request until the server has accepted it. */
  #request = new AbortController();
  /** @type {LLMStreamingResult | null} */
  #answer = null;

  cancel() {
    if (this.#answer === null) this.#request.abort();
    else this.#answer.cancel();
  }

  /**
   * @param {TextGenerationClient} client
   * @param {string} prompt
   * @param {LLMGenerationOptions} options
   * @param {(piece: string) => void} onText
   * @returns {Promise<LLMGenerationResult>}
   */
  async read(client, prompt, options, onText) {
    const own = this.#request.signal;
    const signal = options.signal ? AbortSignal.any([options.signal, own]) : own;
    try {
      this.#answer = await client.generateStream(prompt, { ...options, signal });
      for await (const piece of this.#answer.stream) onText(piece);
      return await this.#answer.result;
    } catch (error) {
      if (own.aborted && error === own.reason) return NEVER_STARTED;
      throw error;
    }
  }
}

/** Runs a function once in the next animation frame, however often it is requested before that. */
class Frame {
  /** @type {number | ReturnType<typeof setTimeout> | null} */
  #id = null;
  #run;

  /** @param {() => void} run */
  constructor(run) {
    this.#run = run;
  }

  request() {
    if (this.#id !== null) return;
    const run = () => {
      this.#id = null;
      this.#run();
    };
    this.#id = hasFrames() ? requestAnimationFrame(run) : setTimeout(run, FRAME_MS);
  }

  cancel() {
    if (this.#id === null) return;
    if (typeof this.#id === "number" && hasFrames()) cancelAnimationFrame(this.#id);
    else clearTimeout(this.#id);
    this.#id = null;
  }
}

function hasFrames() {
  return typeof requestAnimationFrame === "function";
}
