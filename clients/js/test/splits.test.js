// The bytes of real streams, cut at every place, come to the same tokens and results.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";

import { MODEL, client, collect, readAll, recording, replaying, servers, timeless, timelessResult } from "./helpers.js";

/**
 * @import { TextGenerationClient, LLMGenerationResult, LLMStreamingResult, StreamToken } from "../headrace.js"
 */

const WEATHER = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "ö"}}\n</tool_call>';
const SCHEMA = { type: "object", properties: { a: { type: "string" } }, required: ["a"], additionalProperties: false };

// Each how many bytes there is a cut: `make test` takes every seventh place, `make test-long` all.
const EVERY = Number(process.env.CUT_EVERY ?? 1);

/**
 * What is asked, and what must come of it.
 *
 * @typedef {object} Case
 * @property {(client: TextGenerationClient) => Promise<LLMStreamingResult>} ask
 * @property {Partial<LLMGenerationResult>} [result]
 * @property {string} [error] its code
 */

/** @type {Record<string, Case>} */
const CASES = {
  "a chat with a thought and emoji": {
    ask: (one) => one.chatStream("<think>ö</think>é🌊"),
    result: { text: "é🌊", thinking: "ö", finishReason: "stop" },
  },
  "a tool call": {
    ask: (one) => one.chatStream(CALL, { tools: [WEATHER] }),
    result: { text: "", finishReason: "tool_calls" },
  },
  "an answer in JSON": {
    ask: (one) => one.chatStream('{"a":"ü"}', { jsonSchema: SCHEMA }),
    result: { text: '{"a":"ü"}', parsed: { a: "ü" }, finishReason: "stop" },
  },
  "a completion that is cut": {
    ask: (one) => one.generateStream("né🌊 and so on", { maxTokens: 7 }),
    result: { text: "né🌊", finishReason: "length", tokensUsed: 7 },
  },
  "a completion that reports on its prompt": {
    ask: (one) => one.generateStream("abc", { onProgress: () => {} }),
    result: { text: "abc" },
  },
  "a resumable stream": {
    ask: (one) => one.chatStream("né", { resumable: true }),
    result: { text: "né", finishReason: "stop" },
  },
  "a stream that fails": {
    ask: (one) => one.chatStream("fail: né"),
    error: "generation_failed",
  },
};

/**
 * Everything that does not depend on time.
 *
 * @param {Promise<LLMStreamingResult>} promise
 */
async function outcome(promise) {
  const answer = await promise;
  /** @type {Omit<StreamToken, "timestamp">[]} */
  const tokens = [];
  let error = null;
  try {
    for await (const token of answer.streamEvents) tokens.push(timeless(token));
  } catch (reason) {
    const { name, message, code, partial } = /** @type {import("../headrace.js").GenerationError} */ (reason);
    error = { name, message, code, partial: partial && withoutId(timelessResult(partial)) };
  }
  const result = await answer.result.then(
    (value) => withoutId(timelessResult(value)),
    (reason) => reason.code,
  );
  return { tokens, error, result };
}

/** @param {ReturnType<typeof timelessResult>} result */
function withoutId({ id, ...rest }) {
  assert.equal(typeof id, "string");
  return rest;
}

for (const [what, { ask, result, error }] of Object.entries(CASES)) {
  test(`${what}, cut at any byte`, async () => {
    const record = recording();
    const recorded = await outcome(ask(client({ model: MODEL, fetch: record.fetch })));
    const response = record.responses[0];
    assert(response);
    const { bytes, headers } = response;
    if (typeof recorded.result === "string") assert.equal(recorded.result, error);
    else
      for (const [name, value] of Object.entries(result ?? {}))
        assert.deepEqual(Reflect.get(recorded.result, name), value);

    /** @param {Uint8Array[]} chunks */
    const replayed = async (chunks) => {
      await setImmediate(); // or sockets would not be looked at for seconds
      return outcome(ask(client({ model: MODEL, fetch: replaying(chunks, { headers }) })));
    };
    for (let cut = 0; cut <= bytes.length; cut += EVERY) {
      const again = await replayed([bytes.slice(0, cut), bytes.slice(cut)]);
      assert.deepEqual(again, recorded, `cut at ${cut}`);
    }
    assert.deepEqual(await replayed(Array.from(bytes, (byte) => Uint8Array.of(byte))), recorded, "byte by byte");
  });
}

test("tokens: one for each that was sampled, in order, and one more that ends them", async () => {
  const { tokens, result } = await readAll(client().chatStream(`hm${CALL}`, { tools: [WEATHER] }));
  assert.deepEqual(
    tokens.map((token) => token.index),
    tokens.map((_, index) => index),
  );
  assert.equal(tokens.length, result.tokensUsed + 1);
  const last = tokens.at(-1);
  assert(last);
  assert.deepEqual(timeless(last), {
    text: "",
    kind: "text",
    index: result.tokensUsed,
    isLast: true,
    toolCall: null,
    rest: [],
  });
  assert(tokens.slice(0, -1).every((token) => !token.isLast));
  const parts = tokens.flatMap((token) => [token, ...token.rest]);
  const pieces = parts.map((part) => part.toolCall).filter((piece) => piece !== null);
  assert.equal(pieces[0]?.name, "weather");
  assert(pieces.slice(1).every((piece) => piece.name === null && piece.id === null && piece.index === 0));
  assert.equal(pieces.map((piece) => piece.arguments).join(""), '{"city": "ö"}');
  const texts = parts.filter((part) => part.kind === "text").map((part) => part.text);
  assert.equal(texts.join(""), "hm");
  assert.deepEqual(result.toolCalls, [
    { id: pieces[0]?.id, name: "weather", arguments: '{"city": "ö"}', isComplete: true },
  ]);
});

test("a call that is cut off says so", async () => {
  const result = await client().chat(CALL, { tools: [WEATHER], maxTokens: 11 });
  assert.equal(result.finishReason, "length");
  assert.equal(result.toolCalls.length, 1);
  assert.equal(result.toolCalls[0]?.isComplete, false);
  assert('{"city": "ö"}'.startsWith(result.toolCalls[0]?.arguments ?? "?"));
});

test("objects: an answer in JSON as it grows, each a little more than the one before", async () => {
  const text = '{"a":"Grüße 🌊"}';
  const answer = await client().chatStream(text, { jsonSchema: SCHEMA });
  /** @type {unknown[]} */
  const seen = [];
  for await (const value of answer.objects) seen.push(value);
  assert.deepEqual(seen[0], {});
  assert.deepEqual(seen.at(-1), { a: "Grüße 🌊" });
  const values = seen.slice(1).map((value) => /** @type {{ a: string }} */ (value).a);
  assert.deepEqual(values, ["", "G", "Gr", "Grü", "Grüß", "Grüße", "Grüße ", "Grüße 🌊"]);
  assert.deepEqual((await answer.result).parsed, { a: "Grüße 🌊" });
});

test("objects: of a number alone, never nothing", async () => {
  const answer = await client().chatStream("-12.5", { jsonSchema: { type: "number" } });
  const seen = await collect(answer.objects);
  assert.equal(seen.at(-1), -12.5);
  assert(!seen.includes(undefined));
});

test("a real model's stream is the same, however it arrives", { timeout: 300_000 }, async () => {
  const record = recording();
  /** @param {typeof globalThis.fetch} fetch */
  const ask = (fetch) =>
    outcome(
      client({ baseUrl: servers.real, fetch, model: "smollm2" }).chatStream("Say hi.", { maxTokens: 6, seed: 1 }),
    );
  const recorded = await ask(record.fetch);
  const response = record.responses[0];
  assert(response);
  const { bytes, headers } = response;
  for (let cut = 1; cut < bytes.length; cut++) {
    await setImmediate();
    assert.deepEqual(await ask(replaying([bytes.slice(0, cut), bytes.slice(cut)], { headers })), recorded);
  }
});
