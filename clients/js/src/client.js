/** `TextGenerationClient`: starts, resumes and cancels streams on one server, and lists its models. */

import { checkConfiguration, defaultBaseUrl } from "./configuration.js";
import { NotFoundError } from "./errors.js";
import { Generation } from "./generation.js";
import { invalidValue } from "./invalid-request.js";
import { modelsOf, OnlyModel } from "./models.js";
import { bodyOf, checkResuming } from "./options.js";
import { unlessAborted } from "./promises.js";
import { Server } from "./server.js";
import { newId, streamPath } from "./stream-id.js";
import { streamingResultOf } from "./streaming-result.js";

/** @import { ResumingOptions } from "./options.js" */
/** @import { Configuration, LLMGenerationOptions, LLMStreamingResult, Message, ModelInfo } from "./types.js" */

/** A client of one server. `TextGeneration` is a ready-made one. */
export class TextGenerationClient {
  #server = new Server({ baseUrl: defaultBaseUrl(), apiKey: null, fetch: null });
  /** The model that the caller has configured. @type {string | null} */
  #model = null;
  #onlyModel = new OnlyModel();

  /** @param {Configuration} [configuration] */
  constructor(configuration = {}) {
    this.configure(configuration);
  }

  /**
   * Set the server's address and how to talk to it. Missing settings stay as they are; null restores a default.
   *
   * @param {Configuration} configuration
   */
  configure(configuration) {
    const { baseUrl, apiKey, model, fetch } = checkConfiguration(configuration);
    const before = this.#server;
    this.#server = new Server({
      baseUrl: baseUrl ?? before.baseUrl,
      apiKey: apiKey === undefined ? before.apiKey : apiKey,
      fetch: fetch === undefined ? before.fetch : fetch,
    });
    if (baseUrl !== undefined || apiKey !== undefined) this.#onlyModel.forget();
    if (model !== undefined) this.#model = model;
  }

  /**
   * Returns the models that the server has.
   *
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<ModelInfo[]>}
   */
  async models({ signal } = {}) {
    return modelsOf(this.#server, signal);
  }

  /**
   * Continue a prompt, and wait for the whole text.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   */
  async generate(prompt, options) {
    return (await this.generateStream(prompt, options)).result;
  }

  /**
   * Continue a prompt or, with `systemPrompt`, answer it.
   *
   * @param {string} prompt
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted the prompt
   */
  async generateStream(prompt, options = {}) {
    if (typeof prompt !== "string") throw invalidValue("prompt", prompt, "a string");
    if (options?.systemPrompt !== undefined && options.systemPrompt !== null) return this.chatStream(prompt, options);
    return this.#start("v1/completions", { ...bodyOf(options, false), prompt }, options);
  }

  /**
   * Answer a conversation, and wait for the whole answer.
   *
   * @param {string | readonly Message[]} messages a string is the user's only message
   * @param {LLMGenerationOptions} [options]
   */
  async chat(messages, options) {
    return (await this.chatStream(messages, options)).result;
  }

  /**
   * Answer a conversation.
   *
   * @param {string | readonly Message[]} messages a string is the user's only message
   * @param {LLMGenerationOptions} [options]
   * @returns {Promise<LLMStreamingResult>} once the server has accepted the messages
   */
  async chatStream(messages, options = {}) {
    if (typeof messages !== "string" && !Array.isArray(messages)) {
      throw invalidValue("messages", messages, "a string, or a list of messages");
    }
    const body = bodyOf(options, true);
    const chat = typeof messages === "string" ? [{ role: "user", content: messages }] : [...messages];
    if (typeof options.systemPrompt === "string") chat.unshift({ role: "system", content: options.systemPrompt });
    return this.#start("v1/chat/completions", { ...body, messages: chat }, options);
  }

  /**
   * Read a resumable stream again from its first token, for example after a reload of the page.
   *
   * @param {string} id
   * @param {ResumingOptions} [options]
   * @returns {Promise<LLMStreamingResult>}
   */
  async resumeStream(id, options = {}) {
    checkResuming(options);
    const server = this.#server;
    const generation = new Generation(server, id, { ...options, resumable: true });
    await generation.connect((signal) => server.request("GET", streamPath(id), { signal }), { isResumed: true });
    return streamingResultOf(generation);
  }

  /**
   * Cancel a stream by its id, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false if the stream had ended already
   */
  async cancelStream(id) {
    return this.#server.cancelStream(id);
  }

  /**
   * Start a stream.
   *
   * @param {string} path
   * @param {Record<string, unknown>} body
   * @param {LLMGenerationOptions} options
   */
  async #start(path, body, options) {
    options.signal?.throwIfAborted();
    const named = options.model ?? this.#model;
    const id = options.requestId ?? newId();
    const server = this.#server;
    for (let isLastTry = named !== null; ; isLastTry = true) {
      const model = named ?? (await unlessAborted(this.#onlyModel.find(this.#server), options.signal));
      const generation = new Generation(server, id, options);
      const request = requestBody({ ...body, model }, options);
      try {
        await generation.connect((signal) => server.request("POST", path, { body: request, id, signal }));
        return streamingResultOf(generation);
      } catch (error) {
        if (isLastTry || !(error instanceof NotFoundError) || error.code !== "model_not_found") throw error;
        this.#onlyModel.forget(); // the server has changed its model
      }
    }
  }
}

/** The ready-made client. */
export const TextGeneration = new TextGenerationClient();

/**
 * Returns the body of a request for a stream.
 *
 * @param {Record<string, unknown>} body
 * @param {LLMGenerationOptions} options
 * @returns {Record<string, unknown>}
 */
function requestBody(body, { onProgress }) {
  const streaming = { stream: true, stream_options: { include_usage: true }, return_token_index: true };
  return { ...body, ...streaming, ...(onProgress ? { return_progress: true } : {}) };
}
