// Streams of text from a headrace server, for browsers and Node: one module, no dependencies.
// Generated from src/ by `npm run build`; edit there. License: Apache-2.0.

// src/errors.js
var HeadraceError = class extends Error {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details.cause === void 0 ? void 0 : { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code ?? null;
    this.partial = details.partial ?? null;
  }
};
var HttpError = class extends HeadraceError {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details);
    this.status = details.status ?? 0;
    this.type = details.type ?? null;
    this.param = details.param ?? null;
    this.retryAfterMs = details.retryAfterMs ?? null;
  }
};
var InvalidRequestError = class extends HttpError {
};
var AuthenticationError = class extends HttpError {
};
var NotFoundError = class extends HttpError {
};
var QueueFullError = class extends HttpError {
};
var UnavailableError = class extends HttpError {
};
var GenerationError = class extends HeadraceError {
};
var StreamTimeoutError = class extends GenerationError {
};
var ConnectionLostError = class extends HeadraceError {
};

// src/invalid-request.js
var MAX_SHOWN = 100;
function invalidValue(name, value, allowed) {
  return invalidRequest(name, `${name} is ${describe(value)}; allowed: ${allowed}`, "invalid_value");
}
function invalidSecret(name, allowed) {
  return invalidRequest(name, `${name} cannot be sent as it is; allowed: ${allowed}`, "invalid_value");
}
function unknownName(name, reason, allowed) {
  return invalidRequest(name, `${name}: ${reason}; allowed: ${allowed.join(", ")}`, "unknown_option");
}
function describe(value) {
  try {
    return String(typeof value === "object" ? JSON.stringify(value) : value).slice(0, MAX_SHOWN);
  } catch {
    return String(value);
  }
}
function invalidRequest(param, message, code) {
  return new InvalidRequestError(message, { code, param });
}

// src/configuration.js
function defaultBaseUrl() {
  return /^https?:/.test(import.meta.url) ? new URL("./", import.meta.url).href : "http://127.0.0.1:8080/";
}
function checkConfiguration(configuration) {
  if (typeof configuration !== "object" || configuration === null) {
    throw invalidValue("configuration", configuration, "an object");
  }
  const allowed = ["apiKey", "baseUrl", "fetch", "model"];
  for (const name of Object.keys(configuration)) {
    if (!allowed.includes(name)) throw unknownName(name, "there is no such setting", allowed);
  }
  const { baseUrl, apiKey, model, fetch } = configuration;
  if (apiKey !== void 0 && apiKey !== null && !fitsHeader(apiKey)) {
    throw invalidSecret("apiKey", "printable ASCII characters");
  }
  if (typeof (model ?? "") !== "string") throw invalidValue("model", model, "a string");
  if (typeof (fetch ?? globalThis.fetch) !== "function") throw invalidValue("fetch", fetch, "a function");
  return { baseUrl: baseUrl === void 0 ? void 0 : folderOf(baseUrl ?? defaultBaseUrl()), apiKey, model, fetch };
}
function fitsHeader(value) {
  return typeof value === "string" && /^[ -~]+$/.test(value);
}
function folderOf(url) {
  const text = String(url);
  const location = (
    /** @type {{ location?: { href: string } }} */
    globalThis.location
  );
  try {
    const folder = new URL(text.endsWith("/") ? text : `${text}/`, location?.href);
    if (/^https?:$/.test(folder.protocol)) return folder.href;
  } catch {
  }
  throw invalidValue("baseUrl", url, "the address of a server, such as http://127.0.0.1:8080");
}

// src/chunk.js
function chunkOf(data) {
  try {
    const value = JSON.parse(data);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
function partsOf({ text, delta = {} }) {
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
function usageOf(usage) {
  return {
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: usage.completion_tokens,
    thinkingTokens: usage.completion_tokens_details?.reasoning_tokens ?? 0,
    totalTokens: usage.total_tokens,
    cost: usage.cost ?? null,
    currency: usage.cost_currency ?? null
  };
}
function progressOf({ total, cache, processed, time_ms: timeMs }) {
  return { total, cached: cache, processed, timeMs };
}

// src/answer.js
var Answer = class {
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
    const seconds = (this.#lastTime - (this.firstTime ?? 0)) / 1e3;
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
    if (choice === void 0) return null;
    for (const part of partsOf(choice)) this.#add(part);
    if (choice.finish_reason) this.#finish(choice.finish_reason);
    return choice.token_index === void 0 || choice.token_index === null ? null : this.#token(choice.token_index);
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
    if (last === void 0 || last.kind !== part.kind || last.toolCall?.index !== part.toolCall?.index) {
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
    if (call !== void 0) {
      call.arguments += delta.arguments;
      return;
    }
    const before = this.toolCalls.at(-1);
    if (before !== void 0) before.isComplete = true;
    this.toolCalls.push({ id: delta.id ?? "", name: delta.name ?? "", arguments: delta.arguments, isComplete: false });
  }
  /** @param {FinishReason} reason */
  #finish(reason) {
    this.finishReason = reason;
    const call = this.toolCalls.at(-1);
    if (call !== void 0) call.isComplete = reason === "tool_calls";
  }
  /** Make a token from the parts so far. @param {number} index @returns {StreamToken} */
  #token(index) {
    const [first, ...rest] = this.#parts;
    this.#parts = [];
    this.#numTokens = index + 1;
    this.#lastTime = performance.now();
    this.firstTime ??= this.#lastTime;
    const { text, kind, toolCall } = first ?? { text: "", kind: (
      /** @type {const} */
      "text"
    ), toolCall: null };
    return { text, kind, index, timestamp: Date.now(), isLast: false, toolCall, rest };
  }
};

// src/sse-decoder.js
var SseDecoder = class {
  #decoder = new TextDecoder();
  /** The beginning of an incomplete line. */
  #rest = "";
  /** Whether the text so far ends with a carriage return: a line feed that follows belongs to the same line end. */
  #endsWithReturn = false;
  /** The fields of the incomplete event. @type {string[]} */
  #data = [];
  #event = "";
  #id = "";
  /**
   * Decode the next bytes.
   *
   * @param {Uint8Array} bytes
   * @returns {SseEvent[]} the events that these bytes complete
   */
  feed(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }));
  }
  /** End the response. An incomplete event is dropped, as the standard demands. */
  flush() {
    this.#lines(this.#decoder.decode());
    this.#rest = "";
    this.#data = [];
  }
  /** @param {string} text */
  #lines(text) {
    const events = [];
    let start = 0;
    if (this.#endsWithReturn && text !== "") {
      this.#endsWithReturn = false;
      if (text[0] === "\n") start = 1;
    }
    for (; ; ) {
      const end = nextLineEnd(text, start);
      if (end < 0) break;
      const line = this.#rest + text.slice(start, end);
      this.#rest = "";
      start = end + 1;
      if (text[end] === "\r") {
        if (start === text.length) this.#endsWithReturn = true;
        else if (text[start] === "\n") start++;
      }
      const event = this.#onLine(line);
      if (event !== null) events.push(event);
    }
    this.#rest += text.slice(start);
    return events;
  }
  /** @param {string} line @returns {SseEvent | null} the event that the line completes */
  #onLine(line) {
    if (line === "") {
      const event = { data: this.#data.join("\n"), event: this.#event || "message", id: this.#id };
      const isEvent = this.#data.length > 0;
      this.#data = [];
      this.#event = "";
      return isEvent ? event : null;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }
};
function nextLineEnd(text, from) {
  for (let at = from; at < text.length; at++) if (text[at] === "\n" || text[at] === "\r") return at;
  return -1;
}

// src/timeouts.js
var LONGEST_TIMEOUT = 2 ** 31 - 1;
var IDLE_TIMEOUT = 6e4;
var RECONNECT_TIMEOUT = 3e4;
var CLOSING_TIMEOUT = 2e3;
function silenceError(ms) {
  return new ConnectionLostError(`the server was silent for ${ms} ms`, { code: "silent" });
}

// src/sse-response.js
var SseResponse = class {
  #controller = new AbortController();
  #decoder = new SseDecoder();
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;
  /**
   * Send the request and wait for the response.
   *
   * @param {StreamRequest} request
   * @param {number} limit milliseconds; 0 for no limit
   */
  async open(request, limit) {
    const timer = limit > 0 ? setTimeout(() => this.#controller.abort(silenceError(limit)), limit) : void 0;
    try {
      this.#reader = this.#readerOf(await request(this.#controller.signal));
    } finally {
      clearTimeout(timer);
    }
  }
  /**
   * Wait for the next bytes.
   *
   * @param {number} idleTimeout milliseconds of silence after which the connection counts as lost; 0 for no limit
   * @returns {Promise<SseEvent[] | null>} the events that these bytes complete, often none; null: connection lost
   */
  async next(idleTimeout) {
    const bytes = await this.#nextBytes(idleTimeout);
    return bytes === null ? null : this.#decoder.feed(bytes);
  }
  abort() {
    this.#controller.abort();
  }
  /** Read on to the response's end, which is near, so that the browser can reuse the TCP connection. */
  drain() {
    const timer = setTimeout(() => this.abort(), CLOSING_TIMEOUT);
    const read = this.#reader?.read().then(({ done }) => done || this.abort());
    read?.catch(() => {
    }).finally(() => clearTimeout(timer));
  }
  /** @param {Response} response */
  #readerOf(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (/^text\/event-stream\b/i.test(type) && response.body !== null) return response.body.getReader();
    this.abort();
    const message = `this is no answer of a headrace server: its Content-Type is ${type || "missing"}`;
    throw new HeadraceError(message, { code: "protocol_error" });
  }
  /** @param {number} idleTimeout */
  async #nextBytes(idleTimeout) {
    const timer = idleTimeout > 0 ? setTimeout(() => this.abort(), idleTimeout) : void 0;
    try {
      const { done, value } = await this.#reader?.read() ?? { done: true, value: void 0 };
      return done ? null : value ?? new Uint8Array();
    } catch {
      return null;
    } finally {
      clearTimeout(timer);
    }
  }
};

// src/promises.js
function withResolvers() {
  const resolvers = {};
  resolvers.promise = new Promise((resolve, reject) => {
    resolvers.resolve = resolve;
    resolvers.reject = reject;
  });
  return (
    /** @type {Resolvers<T>} */
    resolvers
  );
}
function unlessAborted(promise, signal) {
  if (!signal) return promise;
  const aborted = withResolvers();
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort);
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", onAbort));
}
var LazyPromise = class extends Promise {
  #promise;
  #start;
  /** `then` returns plain promises. */
  static get [Symbol.species]() {
    return Promise;
  }
  /**
   * @param {Promise<T>} promise settles this one
   * @param {() => unknown} start called at each `then`
   */
  constructor(promise, start) {
    super(() => {
    });
    this.#promise = promise;
    this.#start = start;
  }
  /**
   * @template [A=T]
   * @template [B=never]
   * @param {((value: T) => A | PromiseLike<A>) | null} [onFulfilled]
   * @param {((reason: unknown) => B | PromiseLike<B>) | null} [onRejected]
   * @returns {Promise<A | B>}
   * @override
   */
  // biome-ignore lint/suspicious/noThenProperty: a promise has one
  then(onFulfilled, onRejected) {
    this.#start();
    return this.#promise.then(onFulfilled, onRejected);
  }
};

// src/stream-id.js
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
function streamPath(id) {
  if (typeof id !== "string" || id === "") throw invalidValue("id", id, "the id of a stream, a string");
  return `v1/streams/${encodeURIComponent(id)}`;
}

// src/reconnecting-stream.js
var RECONNECT_PAUSES = [0, 250, 500, 1e3, 2e3];
var STABLE_AFTER = 1e3;
var TEMPORARY_STATUSES = [429, 502, 503, 504];
var LOST_MESSAGE = "the connection was lost in mid-answer";
var ReconnectingStream = class {
  #server;
  #id;
  #options;
  #connection = new SseResponse();
  /** When the current connection was opened. */
  #openedAt = 0;
  /** The number of the last event received; only events of resumable streams have numbers. */
  #lastEvent = 0;
  /** When the connection was lost; null after the next event. @type {number | null} */
  #lostAt = null;
  /** Tries to reconnect since then. */
  #numTries = 0;
  #isStopped = false;
  #isClosed = false;
  /** @type {Resolvers<void>} */
  #stopped = withResolvers();
  /**
   * @param {Server} server
   * @param {string} id
   * @param {LLMGenerationOptions} options
   */
  constructor(server, id, options) {
    this.#server = server;
    this.#id = id;
    this.#options = options;
  }
  /** Resolves when the stream is stopped or closed. */
  get stopped() {
    return this.#stopped.promise;
  }
  get #idleTimeout() {
    return this.#options.idleTimeoutMs ?? IDLE_TIMEOUT;
  }
  /**
   * Open a connection.
   *
   * @param {StreamRequest} request
   * @param {number} [limit] milliseconds to wait for the response; 0 for no limit
   */
  async open(request, limit = this.#idleTimeout) {
    this.#connection = new SseResponse();
    await this.#connection.open(request, limit);
    this.#openedAt = performance.now();
  }
  /**
   * Wait for the next bytes.
   *
   * @returns {Promise<SseEvent[] | null>} new events, often none; null if the connection is lost
   */
  async next() {
    const events = await this.#connection.next(this.#idleTimeout);
    return events?.filter((event) => this.#register(event)) ?? null;
  }
  /**
   * Open another connection after one was lost. The server continues after the last event received. Also returns,
   * without a connection, if the stream is stopped meanwhile.
   */
  async reconnect() {
    if (!this.#options.resumable || this.#isStopped)
      throw new ConnectionLostError(LOST_MESSAGE, { code: "connection_lost" });
    const now = performance.now();
    if (this.#lostAt === null || now - this.#openedAt > STABLE_AFTER) {
      this.#lostAt = now;
      this.#numTries = 0;
    }
    this.#options.onConnection?.("lost");
    const end = this.#lostAt + (this.#options.reconnectTimeoutMs ?? RECONNECT_TIMEOUT);
    let cause;
    for (let left = end - now; left > 0; left = end - performance.now()) {
      const pause = RECONNECT_PAUSES[Math.min(this.#numTries++, RECONNECT_PAUSES.length - 1)] ?? 0;
      await this.#pause(Math.min(pause, left));
      if (this.#isStopped) return;
      if (pause >= left) break;
      try {
        await this.open((signal) => this.#requestRest(signal), Math.max(1, end - performance.now()));
      } catch (error) {
        if (this.#isClosed) return;
        cause = error;
        if (error instanceof ConnectionLostError || TEMPORARY_STATUSES.includes(statusOf(error))) continue;
        break;
      }
      this.#options.onConnection?.("resumed");
      return;
    }
    const reason = cause === void 0 ? "it breaks off again and again" : messageOf(cause);
    const message = `${LOST_MESSAGE}, and could not be taken up again: ${reason}`;
    throw new ConnectionLostError(message, { code: "connection_lost", cause });
  }
  /** Stop reconnecting. The open connection can still be read. */
  stop() {
    this.#isStopped = true;
    this.#stopped.resolve();
  }
  /**
   * Close the connection.
   *
   * @param {{ isOver: boolean }} state whether the server has sent its last event
   */
  close({ isOver }) {
    this.stop();
    this.#isClosed = true;
    if (isOver) this.#connection.drain();
    else this.#connection.abort();
  }
  /**
   * Note an event's number. After a reconnect the server may repeat events.
   *
   * @param {SseEvent} event
   * @returns {boolean} false if the event was received before
   */
  #register({ id }) {
    if (id === "") return true;
    const number = Number(id);
    if (number <= this.#lastEvent) return false;
    this.#lastEvent = number;
    this.#lostAt = null;
    return true;
  }
  /** @param {AbortSignal} signal */
  #requestRest(signal) {
    return this.#server.request("GET", streamPath(this.#id), { after: this.#lastEvent, signal });
  }
  /** @param {number} ms */
  async #pause(ms) {
    let timer;
    const passed = new Promise((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([passed, this.stopped]);
    clearTimeout(timer);
  }
};
function statusOf(error) {
  return error instanceof HttpError ? error.status : error instanceof StreamTimeoutError ? 504 : 0;
}
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

// src/page-unload.js
var isUnloading = false;
globalThis.addEventListener?.("pagehide", () => {
  isUnloading = true;
});
globalThis.addEventListener?.("pageshow", () => {
  isUnloading = false;
});
function isPageUnloading() {
  return isUnloading;
}

// src/result.js
function resultOf(answer, finishReason, { id, startedAt, hasSchema }) {
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
    id
  };
}
function parsedOf(text) {
  try {
    return (
      /** @type {unknown} */
      JSON.parse(text)
    );
  } catch {
    return null;
  }
}
function rounded(ms) {
  return Math.round(ms * 10) / 10;
}

// src/generation.js
var Generation = class {
  #server;
  #options;
  #events;
  #answer = new Answer();
  #startedAt = performance.now();
  /** Tokens that the iterator has not yielded yet. @type {StreamToken[]} */
  #queue = [];
  /** Whether the iterator exists. */
  #isTaken = false;
  #isCancelled = false;
  /** Whether the server has sent its last event. */
  #isOver = false;
  /** Whether the result is settled. */
  #isEnded = false;
  #isFailed = false;
  /** The reason of a failed stream. @type {unknown} */
  #error = null;
  /** @type {Resolvers<LLMGenerationResult>} */
  #result = withResolvers();
  /** The step that is being executed. @type {Promise<void> | null} */
  #advancing = null;
  #onAbort = () => this.#abort();
  /**
   * @param {Server} server
   * @param {string} id
   * @param {LLMGenerationOptions} options
   */
  constructor(server, id, options) {
    this.id = id;
    this.#server = server;
    this.#options = options;
    this.#events = new ReconnectingStream(server, id, options);
    this.#result.promise.catch(() => {
    });
  }
  get result() {
    return this.#result.promise;
  }
  /**
   * Open the first connection.
   *
   * @param {StreamRequest} request
   * @param {{ isResumed?: boolean }} [state] whether the stream exists on the server already
   */
  async connect(request, { isResumed = false } = {}) {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this.#onAbort);
    try {
      await this.#events.open(request);
    } catch (error) {
      signal?.removeEventListener("abort", this.#onAbort);
      if (signal?.aborted) throw signal.reason;
      if (error instanceof ConnectionLostError && !isResumed) this.#abandon();
      throw error;
    }
  }
  /** Returns the only iterator. @returns {Tokens} */
  take() {
    if (this.#isTaken)
      throw new HeadraceError("this stream is already being read; it can be read once", { code: "taken" });
    this.#isTaken = true;
    return this.#tokens();
  }
  /** Read the stream to its end for a caller that awaits the result. The tokens stay queued for a later iterator. */
  async collect() {
    while (!this.#isEnded) await this.#advance();
  }
  /** End the stream without an error. Does nothing after the end. */
  cancel() {
    if (this.#isEnded || this.#isCancelled) return;
    this.#isCancelled = true;
    this.#queue = [];
    this.#events.stop();
    const timer = setTimeout(() => this.#finish("cancelled"), CLOSING_TIMEOUT);
    this.#server.cancelStream(this.id).catch(() => this.#finish("cancelled"));
    this.collect().finally(() => clearTimeout(timer));
  }
  /** @returns {Tokens} */
  async *#tokens() {
    try {
      while (!this.#isCancelled) {
        if (this.#queue.length > 0) {
          const batch = this.#queue;
          this.#queue = [];
          for (const token of batch) {
            if (this.#isCancelled) break;
            yield token;
          }
        } else if (!this.#isEnded) await Promise.race([this.#advance(), this.#events.stopped]);
        else if (this.#isFailed) throw this.#error;
        else break;
      }
      yield this.#answer.lastToken();
    } finally {
      this.cancel();
    }
  }
  /** Read the next events. Concurrent callers wait for the same step. */
  #advance() {
    this.#advancing ??= this.#step().finally(() => {
      this.#advancing = null;
    });
    return this.#advancing;
  }
  async #step() {
    try {
      const events = await this.#events.next();
      if (this.#isEnded) return;
      if (events === null) await this.#reconnect();
      else for (const event of events) this.#onEvent(event);
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) this.#abandon();
      this.#fail(error);
    }
  }
  /** Called when the connection is lost before the server has sent its last event. */
  async #reconnect() {
    try {
      await this.#events.reconnect();
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) throw error;
      if (this.#answer.finishReason !== null) return this.#finish(this.#answer.finishReason);
      error.partial = this.#resultOf(null);
      throw error;
    }
  }
  /** @param {SseEvent} event */
  #onEvent({ data }) {
    if (this.#isEnded) return;
    if (data === "[DONE]") {
      this.#isOver = true;
      return this.#finish(this.#answer.finishReason ?? "stop");
    }
    const chunk = chunkOf(data);
    if (chunk === null) throw this.#unreadable(data);
    if (chunk.error) return this.#onError(chunk.error);
    if (chunk.prompt_progress) this.#options.onProgress?.(progressOf(chunk.prompt_progress));
    const token = this.#addToAnswer(chunk, data);
    if (token !== null && !this.#isCancelled) this.#queue.push(token);
  }
  /** @param {Chunk} chunk @param {string} data the chunk's JSON text */
  #addToAnswer(chunk, data) {
    try {
      return this.#answer.take(chunk);
    } catch {
      throw this.#unreadable(data);
    }
  }
  /** @param {string} data */
  #unreadable(data) {
    const message = `this is no event of a headrace server: ${data.slice(0, 100)}`;
    return new HeadraceError(message, { code: "protocol_error", partial: this.#resultOf(null) });
  }
  /** @param {unknown} error the `error` field of a chunk */
  #onError(error) {
    this.#isOver = true;
    const reported = (
      /** @type {{ message?: unknown, code?: unknown }} */
      typeof error === "object" ? error : {}
    );
    const message = typeof reported?.message === "string" ? reported.message : `the stream failed: ${describe(error)}`;
    const code = typeof reported?.code === "string" ? reported.code : null;
    if (this.#isCancelled && code === "cancelled") return this.#finish("cancelled");
    const ErrorClass = code === "timeout" ? StreamTimeoutError : GenerationError;
    this.#fail(new ErrorClass(message, { code, partial: this.#resultOf(null) }));
  }
  /** The caller's signal was aborted. */
  #abort() {
    if (this.#isEnded) return;
    this.#abandon();
    this.#fail(this.#options.signal?.reason);
  }
  /** Cancel a resumable stream on the server, where it would run on. Other streams end with their connection. */
  #abandon() {
    if (this.#options.resumable && !isPageUnloading()) this.#server.cancelStream(this.id).catch(() => {
    });
  }
  /** @param {FinishReason} reason */
  #finish(reason) {
    if (this.#isEnded) return;
    this.#result.resolve(this.#resultOf(reason));
    this.#end();
  }
  /** @param {unknown} error */
  #fail(error) {
    if (this.#isEnded) return;
    if (this.#isCancelled) return this.#finish("cancelled");
    this.#isFailed = true;
    this.#error = error;
    this.#result.reject(error);
    this.#end();
  }
  #end() {
    this.#isEnded = true;
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    this.#events.close({ isOver: this.#isOver });
  }
  /** @param {FinishReason | null} reason */
  #resultOf(reason) {
    const { jsonSchema } = this.#options;
    const hasSchema = jsonSchema !== void 0 && jsonSchema !== null;
    return resultOf(this.#answer, reason, { id: this.id, startedAt: this.#startedAt, hasSchema });
  }
};

// src/models.js
async function modelsOf(server, signal) {
  const answer = await server.json("GET", "v1/models", { signal });
  const models = Array.isArray(answer.data) ? answer.data : [];
  return models.map((model) => ({ id: model.id, contextLength: model.context_length }));
}
var OnlyModel = class {
  /** Resolves to the model's id; pending during the request. @type {Promise<string> | null} */
  #id = null;
  /**
   * Returns the id of the server's only model. Rejects if the server has none or several.
   *
   * @param {Server} server is asked only if no id is remembered
   * @returns {Promise<string>}
   */
  find(server) {
    this.#id ??= modelsOf(server).then(
      (models) => {
        if (models.length === 1 && models[0] !== void 0) return models[0].id;
        this.forget();
        const names = models.map((model) => model.id).join(", ");
        const message = `model is missing, and the server has ${models.length}; allowed: ${names || "none yet"}`;
        throw new InvalidRequestError(message, { code: "missing_model", param: "model" });
      },
      (error) => {
        this.forget();
        throw error;
      }
    );
    return this.#id;
  }
  forget() {
    this.#id = null;
  }
};

// src/options.js
var SAMPLING = {
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
  resumable: "resumable"
};
var CHAT_ONLY = {
  reasoningEffort: "reasoning_effort",
  tools: "tools",
  toolChoice: "tool_choice",
  parallelToolCalls: "parallel_tool_calls",
  chatTemplateKwargs: "chat_template_kwargs",
  continueFinalMessage: "continue_final_message"
};
var LOCAL = {
  systemPrompt: "string",
  model: "string",
  signal: "object",
  requestId: "string",
  reconnectTimeoutMs: "number",
  idleTimeoutMs: "number",
  onProgress: "function",
  onConnection: "function"
};
var RESUMING = (
  /** @type {const} */
  [
    "idleTimeoutMs",
    "jsonSchema",
    "onConnection",
    "onProgress",
    "reconnectTimeoutMs",
    "signal"
  ]
);
function bodyOf(options, isChat) {
  const names = isChat ? { ...SAMPLING, ...CHAT_ONLY } : SAMPLING;
  return checked(
    options,
    names,
    [...Object.keys(names), ...Object.keys(LOCAL)].sort(),
    (name) => !isChat && Object.hasOwn(CHAT_ONLY, name) ? "it is for chats, or prompts with a systemPrompt" : "there is no such option"
  );
}
function checkResuming(options) {
  checked(options, { ...SAMPLING, ...CHAT_ONLY }, RESUMING, () => "there is no such option");
}
function checked(options, names, allowed, whyNot) {
  if (typeof options !== "object" || options === null) throw invalidValue("options", options, "an object");
  const body = {};
  for (const [option, value] of Object.entries(options)) {
    if (value === void 0 || value === null) continue;
    if (!allowed.includes(option)) throw unknownName(option, whyNot(option), allowed);
    const name = names[option];
    if (name === void 0) {
      checkLocal(option, value);
    } else {
      checkJson(option, value);
      body[name] = value;
    }
  }
  return body;
}
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
function checkJson(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw invalidValue(name, value, "a finite number");
  let json;
  try {
    json = JSON.stringify(value);
  } catch {
  }
  if (json === void 0) throw invalidValue(name, value, "a value that JSON can say");
}

// src/response.js
var HTTP_ERRORS = {
  400: InvalidRequestError,
  401: AuthenticationError,
  403: AuthenticationError,
  404: NotFoundError,
  410: NotFoundError,
  413: InvalidRequestError,
  415: InvalidRequestError,
  422: InvalidRequestError,
  429: QueueFullError,
  431: InvalidRequestError,
  503: UnavailableError
};
async function textOf(response, signal) {
  try {
    return await response.text();
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ConnectionLostError("the connection was lost in mid-answer", { code: "connection_lost", cause: error });
  }
}
function objectOf(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value;
  } catch {
  }
  throw new HeadraceError(`this is no answer of a headrace server: ${text.slice(0, 100)}`, { code: "protocol_error" });
}
async function httpError(response, signal) {
  const { status, headers } = response;
  const text = await textOf(response, signal).catch(() => "");
  let reported = {};
  try {
    reported = JSON.parse(text).error ?? {};
  } catch {
  }
  const seconds = Number(headers.get("Retry-After") ?? Number.NaN);
  const details = {
    status,
    code: reported.code ?? null,
    type: reported.type ?? null,
    param: reported.param ?? null,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1e3 : null
  };
  const message = reported.message ?? `HTTP ${status}: ${text.slice(0, 200) || "no details"}`;
  if (status === 504) return new StreamTimeoutError(message, details);
  return new (HTTP_ERRORS[status] ?? HttpError)(message, details);
}

// src/server.js
var Server = class {
  /** @param {{ baseUrl: string, apiKey: string | null, fetch: typeof globalThis.fetch | null }} settings */
  constructor({ baseUrl, apiKey, fetch }) {
    this.baseUrl = baseUrl;
    this.apiKey = apiKey;
    this.fetch = fetch;
  }
  /**
   * Cancel a stream, whoever reads it.
   *
   * @param {string} id
   * @returns {Promise<boolean>} false if the stream had ended already
   */
  async cancelStream(id) {
    const answer = await this.json("DELETE", streamPath(id), { keepalive: true });
    return answer.cancelled === true;
  }
  /**
   * Send a request whose answer is a JSON object.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestParts} parts
   */
  async json(method, path, { signal, ...parts }) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(silenceError(IDLE_TIMEOUT)), IDLE_TIMEOUT);
    const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
    try {
      return objectOf(await textOf(await this.request(method, path, { ...parts, signal: either }), either));
    } finally {
      clearTimeout(timer);
    }
  }
  /**
   * Send a request.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestParts} parts
   * @returns {Promise<Response>} a response of status 2xx; others are thrown as errors
   */
  async request(method, path, { body, id, after, signal, keepalive }) {
    const headers = {};
    if (body !== void 0) headers["Content-Type"] = "application/json";
    if (this.apiKey !== null) headers.Authorization = `Bearer ${this.apiKey}`;
    if (id !== void 0) headers["X-Request-Id"] = id;
    if (after !== void 0) headers["Last-Event-ID"] = String(after);
    const request = { method, headers, cache: "no-store" };
    if (body !== void 0) request.body = JSON.stringify(body);
    if (signal) request.signal = signal;
    if (keepalive) request.keepalive = true;
    const fetch = this.fetch ?? globalThis.fetch;
    let response;
    try {
      response = await fetch(new URL(path, this.baseUrl), request);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new ConnectionLostError(`${this.baseUrl} cannot be reached`, { code: "unreachable", cause: error });
    }
    if (!response.ok) throw await httpError(response, signal);
    return response;
  }
};

// src/partial-json.js
function parsePartialJson(text) {
  try {
    return JSON.parse(text);
  } catch {
  }
  try {
    return JSON.parse(completed(text));
  } catch {
    return void 0;
  }
}
function completed(text) {
  const open = [];
  let cut = 0;
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? "";
    if (character === '"') {
      const end = endOfString(text, at);
      if (end.isComplete) {
        at = end.at;
        if (!isKey) cut = at + 1;
        continue;
      }
      if (isKey) break;
      return `${text.slice(0, end.at)}"${closing(open)}`;
    }
    if (character === "{" || character === "[") {
      open.push(character === "{" ? "}" : "]");
      isKey = character === "{";
      cut = at + 1;
    } else if (character === "}" || character === "]") {
      open.pop();
      isKey = false;
      cut = at + 1;
    } else if (character === ",") {
      isKey = open.at(-1) === "}";
    } else if (character === ":") {
      isKey = false;
    } else if (/[-\w]/.test(character)) {
      const length = /^[-+.\w]+/.exec(text.slice(at))?.[0].length ?? 1;
      if (at + length === text.length) break;
      at += length - 1;
      cut = at + 1;
    }
  }
  return text.slice(0, cut) + closing(open);
}
function closing(open) {
  return open.toReversed().join("");
}
function endOfString(text, start) {
  let usable = start + 1;
  for (let at = start + 1; at < text.length; usable = at) {
    if (text[at] === '"') return { at, isComplete: true };
    if (text[at] !== "\\") at += 1;
    else if (text[at + 1] !== "u") at += 2;
    else at += isFirstHalf(text, at) ? 12 : 6;
    if (at > text.length) return { at: usable, isComplete: false };
  }
  return { at: usable, isComplete: false };
}
function isFirstHalf(text, at) {
  return /^\\u[dD][89abAB]/.test(text.slice(at, at + 4)) && "\\u".startsWith(text.slice(at + 6, at + 8));
}

// src/token-views.js
var SLOW_PARSE = 2;
async function* texts(tokens) {
  for await (const token of tokens) {
    for (const { kind, text } of [token, ...token.rest]) if (kind === "text" && text !== "") yield text;
  }
}
async function* objects(tokens) {
  let text = "";
  let before = "";
  let nextTime = 0;
  const value = () => {
    const started = performance.now();
    const parsed = parsePartialJson(text);
    const json = JSON.stringify(parsed);
    const spent = performance.now() - started;
    nextTime = spent > SLOW_PARSE ? started + 10 * spent : 0;
    if (json === void 0 || json === before) return void 0;
    before = json;
    return parsed;
  };
  for await (const piece of texts(tokens)) {
    text += piece;
    const now = performance.now() < nextTime ? void 0 : value();
    if (now !== void 0) yield now;
  }
  const last = value();
  if (last !== void 0) yield last;
}

// src/streaming-result.js
function streamingResultOf(generation) {
  return {
    id: generation.id,
    stream: iterable(generation, texts),
    streamEvents: iterable(generation, (tokens) => tokens),
    objects: iterable(generation, objects),
    result: new LazyPromise(generation.result, () => generation.collect()),
    cancel: () => generation.cancel()
  };
}
function iterable(generation, view) {
  return {
    [Symbol.asyncIterator]: () => {
      const iterator = view(generation.take());
      for (
        const name of
        /** @type {const} */
        ["return", "throw"]
      ) {
        const leave = iterator[name].bind(iterator);
        iterator[name] = (value) => {
          generation.cancel();
          return leave(value);
        };
      }
      return iterator;
    }
  };
}

// src/client.js
var TextGenerationClient = class {
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
      apiKey: apiKey === void 0 ? before.apiKey : apiKey,
      fetch: fetch === void 0 ? before.fetch : fetch
    });
    if (baseUrl !== void 0 || apiKey !== void 0) this.#onlyModel.forget();
    if (model !== void 0) this.#model = model;
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
    if (options?.systemPrompt !== void 0 && options.systemPrompt !== null) return this.chatStream(prompt, options);
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
      const model = named ?? await unlessAborted(this.#onlyModel.find(this.#server), options.signal);
      const generation = new Generation(server, id, options);
      const request = requestBody({ ...body, model }, options);
      try {
        await generation.connect((signal) => server.request("POST", path, { body: request, id, signal }));
        return streamingResultOf(generation);
      } catch (error) {
        if (isLastTry || !(error instanceof NotFoundError) || error.code !== "model_not_found") throw error;
        this.#onlyModel.forget();
      }
    }
  }
};
var TextGeneration = new TextGenerationClient();
function requestBody(body, { onProgress }) {
  const streaming = { stream: true, stream_options: { include_usage: true }, return_token_index: true };
  return { ...body, ...streaming, ...onProgress ? { return_progress: true } : {} };
}

// src/updater.js
function createThrottledUpdater(element) {
  let text = "";
  let frame = null;
  const write = () => {
    frame = null;
    element.textContent = text;
  };
  const unschedule = () => {
    if (frame !== null) cancelAnimationFrame(frame);
    frame = null;
  };
  return {
    append(more) {
      text += more;
      frame ??= requestAnimationFrame(write);
    },
    reset() {
      unschedule();
      text = "";
      write();
    },
    flush() {
      unschedule();
      write();
    }
  };
}
export {
  AuthenticationError,
  ConnectionLostError,
  GenerationError,
  HeadraceError,
  HttpError,
  InvalidRequestError,
  NotFoundError,
  QueueFullError,
  SseDecoder,
  StreamTimeoutError,
  TextGeneration,
  TextGenerationClient,
  UnavailableError,
  createThrottledUpdater,
  parsePartialJson
};
