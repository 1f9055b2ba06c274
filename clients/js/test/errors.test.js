// Whatever goes wrong rejects with an error of its own class, wherever one looks for it, and nothing hangs.
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  AuthenticationError,
  ConnectionLostError,
  GenerationError,
  HeadraceError,
  HttpError,
  InvalidRequestError,
  NotFoundError,
  QueueFullError,
  StreamTimeoutError,
  TextGenerationClient,
  UnavailableError,
} from "../headrace.js";
import {
  client,
  collect,
  ENDLESS,
  FLOOD,
  endOf,
  http,
  listen,
  MODEL,
  readAll,
  rejection,
  replaying,
  saying,
  servers,
  until,
  within,
} from "./helpers.js";

/** @import { LLMStreamingResult } from "../headrace.js" */

const EVENTS = "text/event-stream";
const guarded = (config = {}) => client({ baseUrl: servers.guarded, apiKey: "secret", ...config });

/** A chunk of a chat, as the server sends it. @param {number} index @param {string} content */
function chunk(index, content) {
  const choice = { index: 0, delta: { content }, logprobs: null, finish_reason: null, token_index: index };
  return `data: ${JSON.stringify({ id: "a", object: "chat.completion.chunk", model: MODEL, choices: [choice] })}\n\n`;
}

/**
 * The loop and the result reject with the same error of this class.
 *
 * @template {HeadraceError} E
 * @param {LLMStreamingResult} answer
 * @param {new (...args: never[]) => E} kind
 */
async function failure(answer, kind) {
  let text = "";
  const loop = async () => {
    for await (const piece of answer.stream) text += piece;
  };
  const error = await rejection(loop(), kind);
  assert.equal(await rejection(answer.result, kind), error);
  assert.equal(error.partial?.text, text);
  assert.equal(error.partial?.finishReason, null);
  assert.equal(error.partial?.id, answer.id);
  answer.cancel(); // does nothing any more
  return { error, text };
}

// Before the first byte

/**
 * @typedef {new (...args: never[]) => HttpError} Kind
 * @typedef {{ kind: Kind, status: number, code: string | null, param?: string | null }} Expected
 */

/** @type {Record<string, [ask: () => Promise<unknown>, expected: Expected, message: RegExp]>} */
const REFUSALS = {
  "no key": [
    () => guarded({ apiKey: null }).generate("a"),
    { kind: AuthenticationError, status: 401, code: "invalid_api_key", param: "Authorization" },
    /key/i,
  ],
  "a wrong key": [
    () => guarded({ apiKey: "wrong" }).chatStream("a"),
    { kind: AuthenticationError, status: 401, code: "invalid_api_key", param: "Authorization" },
    /key/i,
  ],
  "a wrong key, for the models": [
    () => guarded({ apiKey: "wrong" }).models(),
    { kind: AuthenticationError, status: 401, code: "invalid_api_key", param: "Authorization" },
    /key/i,
  ],
  "a wrong key, for a stream to cancel": [
    () => guarded({ apiKey: "wrong" }).cancelStream("a"),
    { kind: AuthenticationError, status: 401, code: "invalid_api_key", param: "Authorization" },
    /key/i,
  ],
  "a model that is not there": [
    () => client({ model: "nobody" }).chat("a"),
    { kind: NotFoundError, status: 404, code: "model_not_found", param: "model" },
    /"?nobody.*parrot/,
  ],
  "a stream that is not there": [
    () => client().cancelStream("nobody"),
    { kind: NotFoundError, status: 404, code: "stream_not_found", param: "id" },
    /nobody/,
  ],
  "a value that is not allowed": [
    () => client().generate("a", { temperature: -1 }),
    { kind: InvalidRequestError, status: 400, code: "invalid_value", param: "temperature" },
    /temperature is -1/,
  ],
  "a message that is none": [
    () => client().chat([{ role: "user", content: 1 }]),
    { kind: InvalidRequestError, status: 400, code: "invalid_value", param: "messages[0].content" },
    /content/,
  ],
  "a schema that is not supported": [
    () => client().chat("a", { jsonSchema: { type: "string", pattern: "(?=a)" } }),
    { kind: InvalidRequestError, status: 400, code: "invalid_value", param: "json_schema" },
    /pattern/,
  ],
  "a prompt that is too long": [
    () => client().generate("x".repeat(40_000)),
    { kind: InvalidRequestError, status: 400, code: "context_length_exceeded", param: "prompt" },
    /40,?000/,
  ],
  "a body that is too large": [
    () => guarded().generate("x".repeat(20_000), { model: MODEL }),
    { kind: InvalidRequestError, status: 413, code: "body_too_large" },
    /./,
  ],
  "a model that is being loaded": [
    () => client({ model: "later" }).chatStream("a"),
    { kind: UnavailableError, status: 503, code: "model_loading" },
    /loaded/,
  ],
};

for (const [what, [ask, { kind, status, code, param = null }, message]] of Object.entries(REFUSALS)) {
  test(`${what}: ${status}`, async () => {
    const error = await rejection(ask(), kind);
    assert(error instanceof HttpError && error instanceof HeadraceError && error instanceof Error);
    assert.deepEqual([error.status, error.code, error.param], [status, code, param]);
    assert.match(error.message, message);
    assert.equal(error.name, kind.name);
    assert.equal(error.retryAfterMs, status === 503 ? 1000 : null);
    assert.equal(typeof error.type, "string");
    assert.equal(error.partial, null);
  });
}

test("a name that is taken: 409", async () => {
  const answer = await client().generateStream(ENDLESS, { requestId: "taken", maxTokens: 20_000 });
  const error = await rejection(client().generateStream("a", { requestId: "taken" }), HttpError);
  assert.deepEqual([error.status, error.code], [409, "id_in_use"]);
  answer.cancel();
  await within(answer.result);
});

test("a queue that is full: 429, and when to come again", async () => {
  const streams = [await guarded().generateStream(FLOOD, { maxTokens: 20_000 })];
  await until(async () => {
    const metrics = await fetch(`${servers.guarded}/metrics`, { headers: { Authorization: "Bearer secret" } });
    return /headrace_streams_paused\{.*\} 1\.0/.test(await metrics.text());
  }, "the first one waits for its reader");
  streams.push(await guarded().generateStream("b"));
  const error = await rejection(guarded().generateStream("c"), QueueFullError);
  assert.deepEqual([error.status, error.code], [429, "queue_full"]);
  assert(error.retryAfterMs !== null && error.retryAfterMs >= 1000 && error.retryAfterMs % 1000 === 0);
  for (const answer of streams) answer.cancel();
  await within(Promise.all(streams.map((answer) => answer.result)));
});

test("statuses of others: a proxy's page, a redirect to nowhere, an empty body", async () => {
  for (const [status, kind] of /** @type {const} */ ([
    [403, AuthenticationError],
    [410, NotFoundError],
    [415, InvalidRequestError],
    [431, InvalidRequestError],
    [418, HttpError],
    [500, HttpError],
    [502, HttpError],
    [503, UnavailableError],
  ])) {
    for (const body of ["<html>nginx</html>", "", '{"error": "a string"}', "[]", "null", '"x"', "7"]) {
      const baseUrl = await saying(http(status, "text/html", body));
      const error = await rejection(client({ baseUrl, model: MODEL }).generate("a"), kind);
      assert.equal(error.status, status, `${status} with ${body}`);
      assert.match(error.message, /./);
      assert.equal(error.code, null);
    }
  }
});

test("when to come again, in the ways that it can be said", async () => {
  for (const [header, expected] of /** @type {const} */ ([
    ["Retry-After: 7\r\n", 7000],
    ["Retry-After: soon\r\n", null],
    ["", null],
  ])) {
    const baseUrl = await saying(http(503, "text/plain", "no", header));
    const error = await rejection(client({ baseUrl, model: MODEL }).generate("a"), UnavailableError);
    assert.equal(error.retryAfterMs, expected, header);
  }
});

test("a page in place of a stream", async () => {
  const baseUrl = await saying(http(200, "text/html", "<html>Welcome!</html>"));
  for (const ask of [
    () => client({ baseUrl, model: MODEL }).generateStream("a"),
    () => client({ baseUrl }).generateStream("a"),
    () => client({ baseUrl }).models(),
    () => client({ baseUrl }).cancelStream("a"),
    () => client({ baseUrl }).resumeStream("a"),
  ]) {
    const error = await rejection(ask(), HeadraceError);
    assert.equal(error.code, "protocol_error");
  }
});

test("nobody listens", async () => {
  const gone = await listen((socket) => void socket.destroy());
  for (const baseUrl of ["http://127.0.0.1:1", gone]) {
    for (const ask of [
      () => client({ baseUrl, model: MODEL }).generateStream("a"),
      () => client({ baseUrl, model: MODEL }).generateStream("a", { resumable: true }),
      () => client({ baseUrl }).generate("a"),
      () => client({ baseUrl }).models(),
      () => client({ baseUrl }).cancelStream("a"),
    ]) {
      const error = await rejection(ask(), ConnectionLostError);
      assert.equal(error.code, "unreachable");
      assert(error.cause instanceof Error);
      assert.match(error.message, /127\.0\.0\.1/);
    }
  }
});

// After it

test("the engine fails", async () => {
  const { error, text } = await failure(await client().chatStream("fail: abc"), GenerationError);
  assert.equal(text, "abc");
  assert.equal(error.code, "generation_failed");
  assert.equal(error.partial?.tokensUsed, 3);
  assert(!(error instanceof StreamTimeoutError));
});

test("generate and chat reject with the same", async () => {
  for (const ask of [() => client().generate("<user>fail: abc"), () => client().chat("fail: abc")]) {
    assert.equal((await rejection(ask(), GenerationError)).partial?.text, "abc");
  }
});

test("a stream takes too long", async () => {
  const answer = await guarded().generateStream("slow!", { maxTokens: 20_000 });
  const { error, text } = await failure(answer, StreamTimeoutError);
  assert.equal(error.code, "timeout");
  assert(error instanceof GenerationError);
  assert.match(text, /^z+$/);
  const end = await endOf(answer.id);
  assert.deepEqual([end.finish_reason, end.completion_tokens], ["timeout", error.partial?.tokensUsed]);
});

test("the server shuts down", async () => {
  const event = '{"error": {"message": "the server is shutting down", "code": "server_shutdown"}}';
  const baseUrl = await saying(http(200, EVENTS, `${chunk(0, "a")}data: ${event}\n\n`));
  const { error, text } = await failure(await client({ baseUrl, model: MODEL }).chatStream("a"), GenerationError);
  assert.deepEqual([text, error.code, error.message], ["a", "server_shutdown", "the server is shutting down"]);
});

// The connection

/** @type {Record<string, (socket: import("node:net").Socket) => void>} */
const BREAKS = {
  "is closed": (socket) => socket.end(),
  "is reset": (socket) => socket.resetAndDestroy(),
};

for (const [what, end] of Object.entries(BREAKS)) {
  test(`the connection ${what} in mid-answer`, async () => {
    const whole = chunk(0, "a") + chunk(1, "b");
    for (const cut of [0, 1, 10, chunk(0, "a").length - 1, chunk(0, "a").length, whole.length - 1, whole.length]) {
      const baseUrl = await saying(http(200, EVENTS, whole.slice(0, cut)), end);
      const started = client({ baseUrl, model: MODEL }).chatStream("a");
      // A reset may overtake the response's head.
      const answer = await started.catch((reason) => /** @type {unknown} */ (reason));
      if (answer instanceof ConnectionLostError) continue;
      const streaming = /** @type {LLMStreamingResult} */ (answer);
      const { error } = await failure(streaming, ConnectionLostError);
      assert.equal(error.code, "connection_lost");
    }
  });
}

test("a name that can be none is refused here", async () => {
  for (const requestId of ["a b", " a", "", "ä", "x".repeat(129)]) {
    const error = await rejection(client().generate("a", { requestId }), InvalidRequestError);
    assert.deepEqual([error.status, error.code, error.param], [0, "invalid_value", "requestId"]);
  }
});

test("an answer that has ended is whole, also where what follows is lost", async () => {
  const last = chunk(1, "").replace('"finish_reason":null', '"finish_reason":"stop"');
  const baseUrl = await saying(http(200, EVENTS, `id: 1\n${chunk(0, "a")}id: 2\n${last}`));
  for (const options of [{}, { resumable: true, reconnectTimeoutMs: 50 }]) {
    const { result } = await readAll(client({ baseUrl, model: MODEL }).chatStream("a", options));
    assert.deepEqual([result.text, result.finishReason, result.usage.promptTokens], ["a", "stop", null]);
  }
});

test("a server that goes silent", async () => {
  const baseUrl = await saying(http(200, EVENTS, chunk(0, "a")), () => {});
  const answer = await client({ baseUrl, model: MODEL }).chatStream("a", { idleTimeoutMs: 50 });
  const { error, text } = await failure(answer, ConnectionLostError);
  assert.deepEqual([text, error.code], ["a", "connection_lost"]);
});

test("a server that never says anything can be left", async () => {
  const baseUrl = await listen(() => {});
  for (const ask of /** @type {((signal: AbortSignal) => Promise<unknown>)[]} */ ([
    (signal) => client({ baseUrl, model: MODEL }).generateStream("a", { signal }),
    (signal) => client({ baseUrl, model: MODEL }).resumeStream("a", { signal }),
    (signal) => client({ baseUrl }).models({ signal }),
    (signal) => client({ baseUrl }).generateStream("a", { signal }),
  ])) {
    const controller = new AbortController();
    const promise = ask(controller.signal);
    setImmediate(() => controller.abort());
    assert.equal((await rejection(promise, DOMException)).name, "AbortError");
  }
});

test("a server that takes the request and says nothing is not waited for for ever", async () => {
  const options = { idleTimeoutMs: 50 };
  const silent = client({ baseUrl: await listen(() => {}), model: MODEL });
  const stalled = client({
    baseUrl: await saying("HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\n{", () => {}),
    model: MODEL,
  });
  await rejection(silent.chatStream("a", options), ConnectionLostError);
  await rejection(silent.resumeStream("a", options), ConnectionLostError);
  await rejection(stalled.chatStream("a", options), HttpError);
});

test("a list of models that breaks off", async () => {
  const baseUrl = await saying("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{");
  await rejection(client({ baseUrl }).models(), ConnectionLostError);
  await rejection(client({ baseUrl }).generate("a"), ConnectionLostError);
});

test("events that are not what they should be", async () => {
  for (const event of [
    '{"choices":[null]}',
    '{"choices":[{"delta":null}]}',
    '{"choices":[{"delta":{"tool_calls":5}}]}',
  ]) {
    const baseUrl = await saying(http(200, EVENTS, `${chunk(0, "a")}data: ${event}\n\n`));
    const { error, text } = await failure(await client({ baseUrl, model: MODEL }).chatStream("a"), HeadraceError);
    assert.deepEqual([text, error.code], ["a", "protocol_error"]);
  }
  const baseUrl = await saying(http(200, EVENTS, 'data: {"error":"boom"}\n\n'));
  const { error } = await failure(await client({ baseUrl, model: MODEL }).chatStream("a"), GenerationError);
  assert.match(error.message, /boom/);
});

test("JSON that a stop sequence has cut off is no object", async () => {
  const options = { jsonSchema: { type: "object" }, stopSequences: [","] };
  const result = await client().chat('{"a": 1, "b": 2}', options);
  assert.deepEqual([result.text, result.finishReason, result.parsed], ['{"a": 1', "stop", null]);
});

test("an abort without a reason is an abort", async () => {
  const controller = new AbortController();
  const answer = await client().chatStream(ENDLESS, { maxTokens: 20_000, signal: controller.signal });
  let isAborted = false;
  try {
    for await (const _ of answer.stream) controller.abort(null);
  } catch (error) {
    isAborted = error === null;
  }
  assert(isAborted);
  const reason = await within(
    answer.result.then(
      () => "a result",
      (error) => error,
    ),
  );
  assert.equal(reason, null);
});

test("a silent stream can be cancelled, although the server does not answer", async () => {
  const baseUrl = await saying(http(200, EVENTS, chunk(0, "a")), () => {});
  const answer = await client({ baseUrl, model: MODEL }).chatStream("a");
  let text = "";
  for await (const piece of answer.stream) {
    text += piece;
    answer.cancel();
  }
  const result = await within(answer.result);
  assert.deepEqual([text, result.text, result.finishReason], ["a", "a", "cancelled"]);
});

test("events that are none of ours", async () => {
  for (const data of [
    "no JSON",
    "7",
    "null",
    '"a"',
    "[]",
    '{"choices": 7}',
    '{"choices": [7]}',
    '{"choices":[{"delta":7}]}',
  ]) {
    const bytes = new TextEncoder().encode(`${chunk(0, "a")}data: ${data}\n\n${chunk(1, "b")}`);
    const answer = await client({ model: MODEL, fetch: replaying([bytes]) }).chatStream("a");
    const { error } = await failure(answer, HeadraceError);
    assert(["protocol_error", "connection_lost"].includes(error.code ?? ""), `${data}: ${error.code}`);
  }
});

// Refused here

test("a wrong call is refused before anything is sent", async () => {
  /** @type {typeof fetch} */
  const never = () => assert.fail("a request was made");
  const one = client({ model: MODEL, fetch: never });
  /** @type {[ask: (wrong: any) => Promise<unknown>, param: string][]} */
  const calls = [
    [(wrong) => wrong.generateStream(7), "prompt"],
    [(wrong) => wrong.generateStream(["a"]), "prompt"],
    [(wrong) => wrong.generate(undefined), "prompt"],
    [(wrong) => wrong.generateStream("a", 7), "options"],
    [(wrong) => wrong.chat(7), "messages"],
    [(wrong) => wrong.chatStream({ role: "user" }), "messages"],
    [(wrong) => wrong.generateStream("a", { max_tokens: 5 }), "max_tokens"],
    [(wrong) => wrong.generateStream("a", { maxtokens: 5 }), "maxtokens"],
    [(wrong) => wrong.generateStream("a", { onProgress: 5 }), "onProgress"],
    [(wrong) => wrong.generateStream("a", { signal: 5 }), "signal"],
    [(wrong) => wrong.generateStream("a", { signal: {} }), "signal"],
    [(wrong) => wrong.generateStream("a", { tools: [] }), "tools"],
    [(wrong) => wrong.generateStream("a", { requestId: "ä" }), "requestId"],
    [(wrong) => wrong.chat("a", { systemPrompt: 5 }), "systemPrompt"],
    [(wrong) => wrong.chat("a", { constructor: 5 }), "constructor"],
    [(wrong) => wrong.resumeStream("a", { maxTokens: 5 }), "maxTokens"],
    [(wrong) => wrong.resumeStream(7), "id"],
    [(wrong) => wrong.cancelStream(""), "id"],
  ];
  for (const [ask, param] of calls) {
    const error = await rejection(ask(one), InvalidRequestError);
    assert.deepEqual([error.status, error.param], [0, param]);
    assert.match(error.message, new RegExp(`^${param}\\b.*allowed: `));
  }
});

test("configure refuses what it does not know", () => {
  for (const [configuration, param] of /** @type {[object, string][]} */ ([
    [{ url: "http://127.0.0.1" }, "url"],
    [{ baseUrl: "http://" }, "baseUrl"],
    [{ baseUrl: "127.0.0.1:8080" }, "baseUrl"],
    [{ baseUrl: "localhost:8080" }, "baseUrl"],
    [{ baseUrl: "ftp://127.0.0.1" }, "baseUrl"],
    [{ apiKey: 7 }, "apiKey"],
    [{ apiKey: "a\nb" }, "apiKey"],
    [{ model: 7 }, "model"],
    [{ fetch: 7 }, "fetch"],
  ])) {
    const refused = (/** @type {unknown} */ error) =>
      error instanceof InvalidRequestError && error.param === param && error.message.includes("allowed: ");
    assert.throws(() => new TextGenerationClient(configuration), refused, JSON.stringify(configuration));
    assert.throws(() => client().configure(configuration), refused);
  }
});

test("what a callback throws ends the stream with it", async () => {
  const mine = new Error("mine");
  const answer = await client().chatStream("abc", {
    onProgress: () => {
      throw mine;
    },
  });
  const outcome = await within(answer.result.catch((reason) => reason));
  // Where the prompt was read too quickly for a report, there was nobody to throw.
  if (outcome instanceof Error) assert.equal(outcome, mine);
  else assert.equal(outcome.text, "abc");
  await endOf(answer.id);
  await collect(answer.stream).catch((reason) => assert.equal(reason, mine));
});
