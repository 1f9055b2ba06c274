// A stream in every order of use: read, awaited, left, cancelled, aborted. Nothing hangs, and the server knows.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { HeadraceError, NotFoundError } from "../headrace.js";
import { client, collect, ENDLESS, endOf, FLOOD, rejection, servers, until, within } from "./helpers.js";

/** @import { LLMStreamingResult } from "../headrace.js" */

const TEXT = "Grüße 🌊, and more";
const TOKENS = new TextEncoder().encode(TEXT).length + 1; // a token for each byte, and the one that ends it

let count = 0;
/** A name for a stream, to find it in the log. */
function newId() {
  return `lifecycle-${process.pid}-${count++}`;
}

/** The start of an endless stream. */
async function endless(options = {}) {
  const id = newId();
  const answer = await within(client().generateStream(ENDLESS, { maxTokens: 20_000, requestId: id, ...options }));
  assert.equal(answer.id, id);
  return answer;
}

/**
 * It was cancelled, here and on the server.
 *
 * @param {LLMStreamingResult} answer
 */
async function isCancelled(answer) {
  const result = await within(answer.result, "the result of a cancelled stream");
  assert.equal(result.finishReason, "cancelled");
  const end = await endOf(answer.id);
  assert.equal(end.finish_reason, "cancelled");
  return { result, end };
}

// To the end

test("generate and chat give the result", async () => {
  for (const result of [await client().generate(TEXT, { maxTokens: 100 }), await client().chat(TEXT)]) {
    assert.equal(result.text, TEXT);
    assert.equal(result.finishReason, "stop");
    assert.equal(result.tokensUsed, TOKENS);
    assert.equal(result.model, "parrot");
    assert.equal(result.thinking, null);
    assert.deepEqual(result.toolCalls, []);
    assert.equal(result.parsed, null);
  }
});

test("a conversation is sent as it is", async () => {
  const messages = [
    { role: "system", content: "Be" },
    { role: "assistant", content: "a" },
    { role: "user", content: "prompt?" },
  ];
  assert.equal((await client().chat(messages)).text, "<system>Be<assistant>a<user>prompt?");
});

test("only the result", async () => {
  const answer = await client().chatStream(TEXT);
  assert.equal((await within(answer.result)).text, TEXT);
  assert.equal((await within(answer.result)).text, TEXT, "any number of times");
  assert.equal((await endOf(answer.id)).finish_reason, "stop");
});

test("the loop, then the result", async () => {
  const answer = await client().chatStream(TEXT);
  const pieces = await collect(answer.stream);
  assert.equal(pieces.join(""), TEXT);
  assert(pieces.length > 10, "it came piece by piece");
  assert(pieces.every((piece) => piece !== ""));
  assert.equal((await within(answer.result)).text, TEXT);
});

test("the result is asked for before the loop, and while it runs", async () => {
  const answer = await client().chatStream(TEXT);
  const before = answer.result.then((result) => result.text);
  let text = "";
  /** @type {Promise<string> | null} */
  let during = null;
  for await (const piece of answer.stream) {
    text += piece;
    during ??= answer.result.then((result) => result.text);
  }
  assert.equal(text, TEXT);
  assert.deepEqual(await within(Promise.all([before, during])), [TEXT, TEXT]);
});

test("the result is awaited to its end, and the loop still has every token", async () => {
  const answer = await client().chatStream(TEXT);
  await within(answer.result);
  assert.equal((await collect(answer.stream)).join(""), TEXT);
});

test("the result is a promise in every way", async () => {
  const answer = await client().chatStream(TEXT);
  assert(answer.result instanceof Promise);
  let isOver = false;
  await within(
    answer.result.finally(() => {
      isOver = true;
    }),
  );
  assert(isOver);
  const [result] = await within(Promise.all([answer.result]));
  assert.equal(result.text, TEXT);
  assert.equal((await within(Promise.race([answer.result]))).text, TEXT);
  assert.equal((await within(answer.result.catch(() => assert.fail()))).text, TEXT);
});

test("an empty answer is an answer", async () => {
  const answer = await client().chatStream("repeat 0: x");
  assert.deepEqual(await collect(answer.stream), []);
  const result = await within(answer.result);
  assert.deepEqual([result.text, result.tokensUsed, result.finishReason], ["", 1, "stop"]);
});

test("a stream is read once", async () => {
  for (const [first, second] of /** @type {const} */ ([
    ["stream", "stream"],
    ["stream", "streamEvents"],
    ["streamEvents", "objects"],
    ["objects", "stream"],
  ])) {
    const answer = await client().chatStream(TEXT);
    await collect(answer[first]);
    await rejection(collect(answer[second]), HeadraceError);
    assert.equal((await within(answer.result)).text, TEXT, "which does no harm");
  }
});

test("a second reader in the middle does not disturb the first", async () => {
  const answer = await client().chatStream(TEXT);
  let text = "";
  for await (const piece of answer.stream) {
    text += piece;
    await rejection(collect(answer.streamEvents), HeadraceError);
  }
  assert.equal(text, TEXT);
});

test("calls of next() that do not wait for each other are answered in order", async () => {
  const answer = await client().chatStream("abc");
  const iterator = answer.stream[Symbol.asyncIterator]();
  const four = await within(Promise.all([1, 2, 3, 4].map(() => iterator.next())));
  assert.deepEqual(
    four.map(({ value, done }) => (done ? null : value)),
    ["a", "b", "c", null],
  );
});

// Left

test("breaking out of the loop cancels", async () => {
  for (const name of /** @type {const} */ (["stream", "streamEvents"])) {
    const answer = await endless();
    let seen = 0;
    for await (const _ of answer[name]) if (++seen === 5) break;
    const { result } = await isCancelled(answer);
    assert.match(result.text, /^x{5,}$/);
  }
});

test("an error in the loop cancels, and is what comes out of it", async () => {
  const answer = await endless();
  const mine = new Error("mine");
  const loop = async () => {
    for await (const _ of answer.stream) throw mine;
  };
  assert.equal(await rejection(loop(), Error), mine);
  await isCancelled(answer);
});

test("return() on the iterator cancels, before the first token and after it", async () => {
  for (const name of /** @type {const} */ (["stream", "streamEvents", "objects"])) {
    for (const taken of name === "objects" ? [0] : [0, 1]) {
      const answer = await endless();
      const iterator = answer[name][Symbol.asyncIterator]();
      for (let i = 0; i < taken; i++) await within(iterator.next());
      assert.deepEqual(await within(Promise.resolve(iterator.return?.())), { done: true, value: undefined });
      assert.equal((await within(iterator.next())).done, true);
      await isCancelled(answer);
    }
  }
});

test("what is left after the end stays whole", async () => {
  const answer = await client().chatStream("abc");
  await within(answer.result);
  for await (const _ of answer.stream) break;
  const result = await within(answer.result);
  assert.deepEqual([result.text, result.finishReason], ["abc", "stop"]);
});

// Cancelled

test("cancel before anybody reads", async () => {
  const answer = await endless();
  answer.cancel();
  const { result } = await isCancelled(answer);
  assert.deepEqual(await collect(answer.stream), []);
  assert.equal(result.id, answer.id);
});

test("cancel in the middle ends the loop quietly", async () => {
  const answer = await endless();
  let text = "";
  for await (const piece of answer.stream) {
    text += piece;
    if (text.length === 5) answer.cancel();
  }
  const { result } = await isCancelled(answer);
  assert(result.text.startsWith(text));
  assert(text.length < 20_000);
});

test("cancel while the loop waits for a token", async () => {
  const answer = await endless();
  const iterator = answer.streamEvents[Symbol.asyncIterator]();
  await within(iterator.next());
  const ends = (async () => {
    let last = null;
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) last = next.value;
    return last;
  })();
  answer.cancel();
  const last = await within(ends);
  assert.equal(last?.isLast, true, "a stream that was cancelled has a last token, too");
  await isCancelled(answer);
});

test("cancel while the result is awaited", async () => {
  const answer = await endless();
  const result = answer.result.then((one) => one.finishReason);
  answer.cancel();
  assert.equal(await within(result), "cancelled");
  await isCancelled(answer);
});

test("cancel any number of times, also after the end", async () => {
  const answer = await endless();
  answer.cancel();
  answer.cancel();
  await isCancelled(answer);
  answer.cancel();

  const ended = await client().chatStream("abc");
  await within(ended.result);
  ended.cancel();
  assert.equal((await within(ended.result)).finishReason, "stop");
  assert.equal((await endOf(ended.id)).finish_reason, "stop");
});

test("cancel after some time, as a timer does", async () => {
  const answer = await endless();
  setTimeout(() => answer.cancel(), 30);
  const text = (await collect(answer.stream)).join("");
  const { result } = await isCancelled(answer);
  assert(result.text.startsWith(text));
});

test("cancel a resumable stream", async () => {
  const answer = await endless({ resumable: true });
  for await (const _ of answer.stream) answer.cancel();
  await isCancelled(answer);
});

test("cancel by name", async () => {
  const answer = await endless();
  assert.equal(await within(client().cancelStream(answer.id)), true);
  const error = await rejection(collect(answer.stream), HeadraceError);
  assert.equal(error.code, "cancelled", "somebody else cancelled it: whoever reads it is told");
  assert.equal(await rejection(answer.result, HeadraceError), error);
  await endOf(answer.id);
  await rejection(client().cancelStream(answer.id), NotFoundError);
});

test("a stream that nobody reads or asks for leaves no rejection behind", async () => {
  const answer = await endless();
  await within(client().cancelStream(answer.id));
  await endOf(answer.id);
});

test("many at once, each its own", async () => {
  const streams = await within(
    Promise.all(Array.from({ length: 12 }, (_, index) => client().chatStream(`repeat 50: ${index},`))),
  );
  const texts = await Promise.all(streams.map(async ({ stream }) => (await collect(stream)).join("")));
  texts.forEach((text, index) => {
    assert.equal(text, `${index},`.repeat(50));
  });
});

// Aborted

test("a signal that is aborted already", async () => {
  const reason = new Error("mine");
  const signal = AbortSignal.abort(reason);
  for (const ask of [
    () => client().generateStream("abc", { signal }),
    () => client().generate("abc", { signal }),
    () => client().chat("abc", { signal }),
    () => client().chatStream("abc", { signal }),
    () => client().resumeStream("abc", { signal }),
    () => client().models({ signal }),
  ]) {
    assert.equal(await rejection(ask(), Error), reason);
  }
});

test("a signal that is aborted at once, before the server has answered", async () => {
  for (const baseUrl of [servers.parrot, servers.guarded]) {
    const controller = new AbortController();
    const promise = client({ baseUrl, apiKey: "secret" }).generateStream(ENDLESS, { signal: controller.signal });
    const reason = new Error("mine");
    controller.abort(reason);
    assert.equal(await rejection(promise, Error), reason);
  }
});

test("a signal that is aborted in the middle", async () => {
  for (const resumable of [false, true]) {
    const controller = new AbortController();
    const answer = await endless({ signal: controller.signal, resumable });
    const loop = async () => {
      for await (const _ of answer.stream) controller.abort();
    };
    const error = await rejection(loop(), DOMException);
    assert.equal(error.name, "AbortError");
    assert.equal(error, controller.signal.reason);
    assert.equal(await rejection(answer.result, DOMException), error);
    assert.equal((await endOf(answer.id)).finish_reason, "cancelled");
  }
});

test("a signal that is aborted while nobody reads", async () => {
  const controller = new AbortController();
  const answer = await endless({ signal: controller.signal });
  controller.abort();
  assert.equal((await endOf(answer.id)).finish_reason, "cancelled");
  await rejection(answer.result, DOMException);
  await rejection(collect(answer.stream), DOMException);
});

test("a signal that is aborted after the end, or after a cancel, changes nothing", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const ended = await client().chatStream("abc", { signal });
  await within(ended.result);
  const cancelled = await endless({ signal });
  cancelled.cancel();
  await isCancelled(cancelled);
  controller.abort();
  assert.equal((await within(ended.result)).text, "abc");
  assert.equal((await within(cancelled.result)).finishReason, "cancelled");
});

test("generate stops where its signal is aborted", async () => {
  const controller = new AbortController();
  const id = newId();
  const promise = client().generate(ENDLESS, { maxTokens: 20_000, requestId: id, signal: controller.signal });
  setTimeout(() => controller.abort(), 30);
  await rejection(promise, DOMException);
  // Where the abort came before the server had seen the request, it never knew of it.
  await until(async () => (await fetch(`${servers.parrot}/v1/streams/${id}`)).status === 404, "it is gone");
});

// Left alone

test("a slow reader gets everything", async () => {
  const answer = await client().chatStream("repeat 300: x");
  let text = "";
  for await (const piece of answer.stream) {
    text += piece;
    if (text.length % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(text, "x".repeat(300));
});

test("what nobody reads is not generated: the server waits", async () => {
  const guarded = client({ baseUrl: servers.guarded, apiKey: "secret" });
  const answer = await guarded.generateStream(FLOOD, { maxTokens: 20_000 });
  await until(async () => {
    const headers = { Authorization: "Bearer secret" };
    const metrics = await fetch(`${servers.guarded}/metrics`, { headers });
    return /headrace_streams_paused\{.*\} 1\.0/.test(await metrics.text());
  }, "it waits for its reader");
  answer.cancel();
  const { result } = await isCancelled(answer);
  assert(result.tokensUsed < 20_000);
});

test("a stream that has ended leaves its connection to the next one", async (context) => {
  let connections = 0;
  /** @type {Promise<unknown>[]} */
  const ends = [];
  const server = createServer((request, response) => {
    request.resume();
    ends.push(once(response, "close"));
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write('data: {"choices": [{"index": 0, "text": "a", "token_index": 0}]}\n\ndata: [DONE]\n\n');
    setTimeout(() => response.end(), 20); // not in one piece with the last event
  }).on("connection", () => connections++);
  await once(server.listen(0, "127.0.0.1"), "listening");
  context.after(() => server.close());
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const one = client({ baseUrl: `http://127.0.0.1:${port}`, model: "m" });
  for (let round = 0; round < 5; round++) {
    assert.equal((await within(one.generate("a"))).text, "a");
    await within(Promise.all(ends)); // what follows the last event is on its way
  }
  assert(connections < 5, `${connections} connections`);
});
