// Counts are the server's own, to the token; times make sense; each option arrives under its own name.
import assert from "node:assert/strict";
import { test } from "node:test";

import { GenerationError, InvalidRequestError, TextGeneration } from "../headrace.js";
import { client, collect, ENDLESS, endOf, MODEL, rejection, replaying, servers, within } from "./helpers.js";

/** @import { LLMGenerationResult, LLMGenerationOptions } from "../headrace.js" */

/**
 * The counts are those of the server's log.
 *
 * @param {LLMGenerationResult} result
 * @param {"PARROT_LOG" | "REAL_LOG"} [log]
 */
async function agrees(result, log = "PARROT_LOG") {
  const end = await endOf(result.id, log);
  assert.equal(result.tokensUsed, end.completion_tokens);
  assert.equal(result.usage.completionTokens, end.completion_tokens);
  assert.equal(result.usage.promptTokens, end.prompt_tokens);
  assert.equal(result.usage.cachedTokens, end.cached_tokens);
  assert.equal(result.usage.totalTokens, end.prompt_tokens + end.completion_tokens);
  return end;
}

/** Times make sense. @param {LLMGenerationResult} result */
function isSane(result) {
  const { latencyMs, timeToFirstTokenMs, tokensPerSecond, timings } = result;
  assert(timeToFirstTokenMs !== null && timings !== null);
  assert(0 < timeToFirstTokenMs && timeToFirstTokenMs <= latencyMs, `${timeToFirstTokenMs} of ${latencyMs} ms`);
  assert(Number.isFinite(tokensPerSecond) && tokensPerSecond >= 0);
  for (const time of Object.values(timings)) assert(time >= 0 && time <= latencyMs);
  assert(timings.queueMs + timings.prefillMs + timings.decodeMs <= latencyMs + 1);
}

const SAY = { "as it is": {}, resumable: { resumable: true }, "cut by maxTokens": { maxTokens: 4 } };

for (const [what, options] of Object.entries(SAY)) {
  test(`counts of an answer, ${what}`, async () => {
    for (const promise of [
      client().chat("Grüße", options),
      client().generate("Grüße", { maxTokens: 50, ...options }),
    ]) {
      const result = await within(promise);
      const end = await agrees(result);
      assert.equal(result.finishReason, end.finish_reason);
      assert.equal(result.tokensUsed, what === "cut by maxTokens" ? 4 : 8);
      isSane(result);
    }
  });
}

test("counts of thoughts", async () => {
  const result = await client().chat("<think>\nhm\n</think>\n\nok");
  await agrees(result);
  assert.equal(result.usage.thinkingTokens, "<>\nhm\n".length, "each tag is a token");
});

test("counts of a stop sequence", async () => {
  const answer = await client().chatStream("one two three", { stopSequences: [" th", "zzz"] });
  assert.equal((await collect(answer.stream)).join(""), "one two");
  const result = await within(answer.result);
  assert.equal(result.finishReason, "stop");
  assert.equal((await agrees(result)).finish_reason, "stop_sequence");
});

test("counts of what was cancelled, at any place", async () => {
  for (const place of [0, 1, 2, 50]) {
    for (const resumable of [false, true]) {
      const answer = await client().chatStream(ENDLESS, { resumable });
      let seen = 0;
      if (place === 0) answer.cancel();
      for await (const token of answer.streamEvents) if (!token.isLast && ++seen === place) answer.cancel();
      assert.equal(seen, place, "nothing comes after a cancel");
      const result = await within(answer.result);
      const end = await agrees(result);
      assert.deepEqual([result.finishReason, end.finish_reason], ["cancelled", "cancelled"]);
      assert(result.text.length >= place && result.text.length <= result.tokensUsed);
    }
  }
});

test("counts of what has failed", async () => {
  const error = await rejection(client().chat("fail: abc"), GenerationError);
  assert(error.partial);
  await agrees(error.partial);
});

test("counts of a real model, whole, cut and cancelled", { timeout: 300_000 }, async () => {
  const real = client({ baseUrl: servers.real });
  const whole = await real.chat("Say hello.", { maxTokens: 12, temperature: 0 });
  const end = await agrees(whole, "REAL_LOG");
  assert.equal(end.finish_reason, whole.finishReason);
  isSane(whole);
  assert.equal(whole.model, "smollm2");
  const { promptTokens, completionTokens, cost, currency } = whole.usage;
  assert(cost !== null && Math.abs(cost - ((promptTokens ?? 0) + 2 * completionTokens) / 1e6) < 1e-12);
  assert.equal(currency, "EUR");

  const text = await real.generate("The sea is", { maxTokens: 9, ignoreEos: true });
  assert.deepEqual([text.tokensUsed, text.finishReason], [9, "length"]);
  await agrees(text, "REAL_LOG");

  const answer = await real.chatStream("Tell me a long story.", { maxTokens: 500, ignoreEos: true });
  let seen = 0;
  for await (const token of answer.streamEvents) {
    assert.equal(token.index, seen);
    if (++seen === 5) break;
  }
  const cancelled = await within(answer.result);
  await agrees(cancelled, "REAL_LOG");
  assert.equal(cancelled.finishReason, "cancelled");
  assert(cancelled.tokensUsed >= 5 && cancelled.tokensUsed < 500);
});

test("tokens carry the time at which they came", async () => {
  const before = Date.now();
  const answer = await client().chatStream("abc");
  const times = (await collect(answer.streamEvents)).map((token) => token.timestamp);
  assert.deepEqual(
    times,
    times.toSorted((a, b) => a - b),
  );
  assert(before <= (times[0] ?? 0) && (times.at(-1) ?? 0) <= Date.now());
});

test("a long prompt reports how far it is read", { timeout: 300_000 }, async () => {
  /** @type {import("../headrace.js").PromptProgress[]} */
  const reports = [];
  const prompt = `${Math.random()} ${"The sea is wide. ".repeat(100)}`;
  const result = await client({ baseUrl: servers.real }).generate(prompt, {
    maxTokens: 1,
    onProgress: (one) => reports.push(one),
  });
  assert(reports.length > 1, "about ten a second");
  for (const [index, { total, cached, processed, timeMs }] of reports.entries()) {
    assert.equal(total, result.usage.promptTokens);
    assert(cached <= processed && processed <= total && timeMs >= 0);
    assert(processed >= (reports[index - 1]?.processed ?? 0));
  }
});

// Options

/**
 * The request that a call makes.
 *
 * @param {(one: ReturnType<typeof client>) => Promise<unknown>} call
 * @param {object} [configuration]
 */
async function requestOf(call, configuration = {}) {
  /** @type {{ url: URL, init: RequestInit }[]} */
  const requests = [];
  /** @type {typeof fetch} */
  const record = async (input, init = {}) => {
    requests.push({ url: new URL(String(input)), init });
    return replaying([new TextEncoder().encode("data: [DONE]\n\n")])(input, init);
  };
  await call(client({ model: MODEL, fetch: record, ...configuration }));
  assert.equal(requests.length, 1);
  const [{ url, init }] = /** @type {[{ url: URL, init: RequestInit }]} */ (requests);
  return {
    url,
    method: init.method,
    headers: new Headers(init.headers),
    body: JSON.parse(String(init.body ?? "null")),
  };
}

/** What is sent with every stream. */
const ALWAYS = { model: MODEL, stream: true, stream_options: { include_usage: true }, return_token_index: true };

/** @type {[options: LLMGenerationOptions, body: object][]} */
const SAMPLING = [
  [{}, {}],
  [{ maxTokens: 7 }, { max_tokens: 7 }],
  [{ temperature: 0 }, { temperature: 0 }],
  [{ topK: 3 }, { top_k: 3 }],
  [{ topP: 0.5 }, { top_p: 0.5 }],
  [{ minP: 0.1 }, { min_p: 0.1 }],
  [{ seed: 0 }, { seed: 0 }],
  [{ stopSequences: ["a", "b"] }, { stop: ["a", "b"] }],
  [{ repeatPenalty: 1.1 }, { repeat_penalty: 1.1 }],
  [{ frequencyPenalty: 0.2 }, { frequency_penalty: 0.2 }],
  [{ presencePenalty: 0.3 }, { presence_penalty: 0.3 }],
  [{ logitBias: { 5: -100 } }, { logit_bias: { 5: -100 } }],
  [{ ignoreEos: true }, { ignore_eos: true }],
  [{ jsonSchema: { type: "number" } }, { json_schema: { type: "number" } }],
  [{ regex: "a+" }, { regex: "a+" }],
  [{ grammar: 'start: "a"' }, { grammar: 'start: "a"' }],
  [{ thinking: "hide" }, { thinking: "hide" }],
  [{ thinkingBudget: 0 }, { thinking_budget: 0 }],
  [{ thinkingTags: ["<a>", "</a>"] }, { thinking_tags: ["<a>", "</a>"] }],
  [{ resumable: true }, { resumable: true }],
  [{ model: "other" }, { model: "other" }],
  [{ onProgress: () => {} }, { return_progress: true }],
  [{ onConnection: () => {}, signal: new AbortController().signal, idleTimeoutMs: 5000, reconnectTimeoutMs: 5 }, {}],
];

/** @type {[options: LLMGenerationOptions, body: object][]} */
const CHATS = [
  [{ reasoningEffort: "none" }, { reasoning_effort: "none" }],
  [{ tools: [{ a: 1 }] }, { tools: [{ a: 1 }] }],
  [{ toolChoice: "none" }, { tool_choice: "none" }],
  [{ parallelToolCalls: false }, { parallel_tool_calls: false }],
  [{ chatTemplateKwargs: { a: 1 } }, { chat_template_kwargs: { a: 1 } }],
  [{ continueFinalMessage: true }, { continue_final_message: true }],
];

const MESSAGES = [{ role: "user", content: "hi" }];

for (const [options, sent] of SAMPLING) {
  test(`${JSON.stringify(Object.keys(options))} on the wire`, async () => {
    const text = await requestOf((one) => one.generateStream("hi", options));
    assert.deepEqual([text.method, text.url.pathname], ["POST", "/v1/completions"]);
    assert.deepEqual(text.body, { ...ALWAYS, prompt: "hi", ...sent });
    const chat = await requestOf((one) => one.chatStream("hi", options));
    assert.deepEqual([chat.method, chat.url.pathname], ["POST", "/v1/chat/completions"]);
    assert.deepEqual(chat.body, { ...ALWAYS, messages: MESSAGES, ...sent });
  });
}

for (const [options, sent] of CHATS) {
  test(`${JSON.stringify(Object.keys(options))} of chats alone`, async () => {
    const chat = await requestOf((one) => one.chatStream(MESSAGES, options));
    assert.deepEqual(chat.body, { ...ALWAYS, messages: MESSAGES, ...sent });
    const error = await rejection(client({ model: MODEL }).generateStream("hi", options), InvalidRequestError);
    assert.match(error.message, /chat/);
    const prompted = await requestOf((one) => one.generateStream("hi", { ...options, systemPrompt: "Be" }));
    assert.deepEqual(prompted.body, { ...ALWAYS, messages: [{ role: "system", content: "Be" }, ...MESSAGES], ...sent });
  });
}

test("what is undefined is not sent", async () => {
  const { body } = await requestOf((one) => one.generateStream("hi", { maxTokens: undefined, signal: undefined }));
  assert.deepEqual(body, { ...ALWAYS, prompt: "hi" });
});

test("every option that there is was looked at", async () => {
  /** @type {any} */
  const one = client({ model: MODEL });
  const { message } = await rejection(one.chat("hi", { nonsense: 1 }), InvalidRequestError);
  const allowed = message.split("allowed: ")[1]?.split(", ") ?? [];
  const tested = [...SAMPLING, ...CHATS].flatMap(([options]) => Object.keys(options));
  assert.deepEqual(allowed.toSorted(), [...tested, "systemPrompt", "requestId"].sort());
});

test("a system prompt makes a chat of a prompt, and goes before a conversation", async () => {
  assert.equal((await client().generate("prompt?", { systemPrompt: "Be" })).text, "<system>Be<user>prompt?");
  assert.equal((await client().chat("prompt?", { systemPrompt: "Be" })).text, "<system>Be<user>prompt?");
  assert.equal((await client().generate("prompt?", { systemPrompt: "" })).text, "<system><user>prompt?");
  const messages = [{ role: "user", content: "prompt?" }];
  assert.equal((await client().chat(messages, { systemPrompt: "Be" })).text, "<system>Be<user>prompt?");
  assert.deepEqual(messages, [{ role: "user", content: "prompt?" }], "what was given is not touched");
});

test("the key, the name and the address", async () => {
  const { headers, url } = await requestOf((one) => one.generateStream("hi", { requestId: "my:id" }), {
    baseUrl: "http://localhost:1/llm",
    apiKey: "secret",
  });
  assert.equal(url.href, "http://localhost:1/llm/v1/completions");
  assert.equal(headers.get("Authorization"), "Bearer secret");
  assert.equal(headers.get("X-Request-Id"), "my:id");
  assert.equal(headers.get("Content-Type"), "application/json");
  const open = await requestOf((one) => one.generateStream("hi"), { baseUrl: new URL("http://localhost:1/a/b/") });
  assert.equal(open.url.href, "http://localhost:1/a/b/v1/completions");
  assert.equal(open.headers.get("Authorization"), null);
  assert.match(open.headers.get("X-Request-Id") ?? "", /^[\w-]{16,}$/);
});

test("configure keeps what is not given, and null takes the default back", async () => {
  const one = client({ model: MODEL });
  one.configure({ apiKey: "secret" });
  assert.equal((await one.chat("abc")).text, "abc", "the address and the model are still there");
  one.configure({ model: null });
  assert.equal((await one.chat("abc")).model, MODEL, "the only one that is served");
  one.configure({ fetch: () => Promise.reject(new Error("mine")) });
  await assert.rejects(one.chat("abc"));
  one.configure({ fetch: null });
  assert.equal((await one.chat("abc")).text, "abc");
});

test("the client that there is from the start", async () => {
  TextGeneration.configure({ baseUrl: servers.parrot });
  assert.equal((await TextGeneration.generate("abc", { maxTokens: 50 })).text, "abc");
  assert.deepEqual(await TextGeneration.models(), [{ id: MODEL, contextLength: 30_000 }]);
});

test("a model that is named does not cost a request", async () => {
  let count = 0;
  const one = client({
    fetch: (/** @type {string | URL | Request} */ input, /** @type {RequestInit | undefined} */ init) => {
      count++;
      return fetch(input, init);
    },
  });
  await one.chat("abc", { model: MODEL });
  assert.equal(count, 1);
  await one.chat("abc");
  await one.chat("abc");
  assert.equal(count, 4, "that of the only one is asked for once");
});
