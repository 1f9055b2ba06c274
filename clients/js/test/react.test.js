// The hook in real React,: what it shows, how often, and what ends its streams.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { document, drawFrame, frames, holdFrames } from "./dom.js";
// React looks for a document when it is loaded, so it comes after that.

import { createElement, StrictMode } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";

import { GenerationError, HeadraceError, InvalidRequestError } from "../headrace.js";
import { useStreamingGenerate } from "../react.js";
import { client, ENDLESS, endOf, listen, rejection, until, within } from "./helpers.js";

/**
 * @import { Root } from "react-dom/client"
 * @import { TextGenerationClient } from "../headrace.js"
 */

/** @typedef {ReturnType<typeof useStreamingGenerate>} Hook */

/** What React complains of. @type {unknown[][]} */
const complaints = [];
console.error = (...complaint) => complaints.push(complaint);

/** @type {Root} */
let root;
/** What the hook gave, render by render. @type {Hook[]} */
let renders = [];

beforeEach(() => {
  holdFrames();
  renders = [];
  root = createRoot(document.body.appendChild(document.createElement("div")));
});

afterEach(() => {
  flushSync(() => root.unmount());
  assert.deepEqual(complaints, []);
});

/** @param {{ client: TextGenerationClient }} props */
function Streaming({ client }) {
  const hook = useStreamingGenerate(client);
  renders.push(hook);
  return createElement("p", null, hook.text);
}

/** @param {{ client?: TextGenerationClient, isStrict?: boolean }} [options] */
async function mount({ client: one = client(), isStrict = false } = {}) {
  const element = createElement(Streaming, { client: one });
  flushSync(() => root.render(isStrict ? createElement(StrictMode, null, element) : element));
}

/** What the hook gave last. */
function now() {
  const hook = renders.at(-1);
  assert(hook);
  return hook;
}

/** What is seen. */
function shown() {
  return document.body.textContent ?? "";
}

/**
 * Wait until what `generate` gave has settled, and React has shown it.
 *
 * @template T
 * @param {Promise<T>} promise
 */
async function over(promise) {
  const outcome = await within(promise);
  await until(() => {
    const { isStreaming, metrics, error } = now();
    return !isStreaming && [metrics, error].includes(/** @type {any} */ (outcome));
  }, "it is shown that it is over");
  return outcome;
}

/**
 * Call the hook's `generate`, and wait until it is over.
 *
 * @param {string} prompt
 * @param {Parameters<Hook["generate"]>[1]} [options]
 */
function generate(prompt, options) {
  return over(now().generate(prompt, { maxTokens: 20_000, ...options }));
}

/** Wait for a text in the document, drawing. @param {(text: string) => boolean} isWanted */
function untilShown(isWanted) {
  return until(() => {
    drawFrame();
    return isWanted(now().text);
  }, "it is shown");
}

test("from nothing to a result", async () => {
  await mount();
  const { generate: _, cancel: __, ...idle } = now();
  assert.deepEqual(idle, { text: "", isStreaming: false, error: null, metrics: null });
  const result = await generate("Grüße 🌊");
  assert.equal(result.text, "Grüße 🌊");
  assert.deepEqual([now().text, now().isStreaming, now().error], ["Grüße 🌊", false, null]);
  assert.equal(now().metrics, result);
  assert.equal(shown(), "Grüße 🌊");
});

test("it streams, and the functions stay the same", async () => {
  await mount();
  const { generate, cancel } = now();
  const result = generate(ENDLESS, { maxTokens: 20_000 });
  await untilShown((text) => text.length > 3);
  assert.deepEqual([now().isStreaming, now().metrics, now().error], [true, null, null]);
  const before = now().text;
  await untilShown((text) => text.length > before.length);
  assert(shown().startsWith(before));
  now().cancel();
  await over(result);
  assert(renders.every((hook) => hook.generate === generate && hook.cancel === cancel));
});

test("at most one render per frame, however many tokens", async () => {
  await mount();
  await generate("repeat 500: ab");
  assert.equal(now().text, "ab".repeat(500));
  // Nobody drew: so there was one for the beginning, and one for the end.
  assert.equal(renders.length, 3);
});

test("where there are no frames, a timer takes their place", async () => {
  Reflect.deleteProperty(globalThis, "requestAnimationFrame");
  Reflect.deleteProperty(globalThis, "cancelAnimationFrame");
  await mount();
  const result = now().generate(ENDLESS, { maxTokens: 20_000 });
  await until(() => now().text.length > 3, "it is shown");
  now().cancel();
  assert.equal((await over(result)).finishReason, "cancelled");
  const last = await generate("abc");
  assert.deepEqual([last.text, now().text], ["abc", "abc"]);
});

test("cancel is quiet, and keeps the text", async () => {
  await mount();
  const promise = now().generate(ENDLESS, { maxTokens: 20_000, requestId: "react-cancel" });
  await untilShown((text) => text.length > 3);
  now().cancel();
  const result = await over(promise);
  assert.equal(result.finishReason, "cancelled");
  assert.deepEqual([now().isStreaming, now().error], [false, null]);
  assert.equal(now().metrics, result);
  assert(now().text.length > 3 && result.text.startsWith(now().text));
  assert.equal((await endOf("react-cancel")).finish_reason, "cancelled");
  now().cancel();
  assert.equal(now().metrics, result, "cancelling nothing does nothing");
});

test("cancel before the server has answered is quiet, too", async () => {
  const silent = await listen(() => {});
  await mount({ client: client({ baseUrl: silent, model: "parrot" }) });
  const promise = now().generate("abc");
  await until(() => now().isStreaming, "it is shown that it waits");
  now().cancel();
  const result = await over(promise);
  assert.deepEqual([result.finishReason, result.text, result.tokensUsed], ["cancelled", "", 0]);
  assert.deepEqual([now().isStreaming, now().error], [false, null]);
});

test("cancel at any moment, while it begins", async () => {
  await mount();
  for (let turns = 0; turns < 30; turns++) {
    const promise = now().generate(ENDLESS, { maxTokens: 20_000 });
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
    now().cancel();
    const result = await over(promise);
    assert.equal(result.finishReason, "cancelled", `after ${turns} turns`);
    assert.deepEqual([now().isStreaming, now().error], [false, null]);
  }
});

test("a second generate cancels the first, which shows nothing any more", async () => {
  await mount();
  const first = now().generate(ENDLESS, { maxTokens: 20_000, requestId: "react-first" });
  await untilShown((text) => text.length > 3);
  const second = now().generate("second", { maxTokens: 100 });
  const [one, other] = await within(Promise.all([first, over(second)]));
  assert.deepEqual([one.finishReason, other.text], ["cancelled", "second"]);
  assert.deepEqual([now().text, now().isStreaming], ["second", false]);
  assert.equal(now().metrics, other);
  assert.equal((await endOf("react-first")).finish_reason, "cancelled");
  drawFrame();
  assert.equal(shown(), "second");
});

test("many in a row: only the last one is seen", async () => {
  await mount();
  const all = Array.from({ length: 8 }, (_, index) => now().generate(`repeat 20: ${index}`, { maxTokens: 100 }));
  const results = await within(Promise.all(all));
  await over(Promise.resolve(results.at(-1)));
  assert.equal(results.at(-1)?.text, "7".repeat(20));
  assert(results.slice(0, -1).every((result) => result.finishReason === "cancelled"));
  assert.deepEqual([now().text, now().isStreaming], ["7".repeat(20), false]);
});

test("unmounting cancels", async () => {
  await mount();
  const promise = now().generate(ENDLESS, { maxTokens: 20_000, requestId: "react-unmount" });
  await untilShown((text) => text.length > 3);
  const count = renders.length;
  flushSync(() => root.unmount());
  assert.equal((await within(promise)).finishReason, "cancelled");
  assert.equal((await endOf("react-unmount")).finish_reason, "cancelled");
  assert.equal(renders.length, count);
  assert.equal(frames.size, 0, "no frame is left behind");
});

test("an error is shown and thrown, and the next stream begins anew", async () => {
  await mount();
  // Only what a user says is a command to the script, so this has to be a chat.
  const promise = now().generate("fail: abc", { systemPrompt: "Be", maxTokens: 100 });
  const error = await over(rejection(promise, GenerationError));
  assert.equal(now().error, error);
  assert.deepEqual([now().text, now().isStreaming, now().metrics], ["abc", false, null]);
  await generate("good");
  assert.deepEqual([now().text, now().error], ["good", null]);
});

test("a refusal is an error as well", async () => {
  await mount();
  const error = await over(rejection(now().generate("a", { temperature: -1 }), InvalidRequestError));
  assert.equal(now().error, error);
  assert.deepEqual([now().text, now().isStreaming], ["", false]);
  const wrong = await over(rejection(now().generate("a", /** @type {object} */ ({ temprature: 1 })), HeadraceError));
  assert.equal(now().error, wrong);
});

test("a signal of one's own that is aborted", async () => {
  await mount();
  const controller = new AbortController();
  const promise = now().generate(ENDLESS, { maxTokens: 20_000, signal: controller.signal });
  await untilShown((text) => text.length > 3);
  controller.abort("enough");
  assert.equal(await within(promise.catch((reason) => reason)), "enough");
  await until(() => now().error, "the error is shown");
  assert.deepEqual([now().error?.message, now().isStreaming], ["enough", false]);
});

test("StrictMode, which mounts everything twice", async () => {
  await mount({ isStrict: true });
  const result = await generate("abc");
  assert.equal(now().metrics, result);
  assert.equal(shown(), "abc");
  const promise = now().generate(ENDLESS, { maxTokens: 20_000, requestId: "react-strict" });
  await untilShown((text) => text.length > 3);
  flushSync(() => root.unmount());
  assert.equal((await within(promise)).finishReason, "cancelled");
  assert.equal((await endOf("react-strict")).finish_reason, "cancelled");
});

test("two components have a stream each", async () => {
  const one = client();
  flushSync(() =>
    root.render(
      createElement("div", null, createElement(Streaming, { client: one }), createElement(Streaming, { client: one })),
    ),
  );
  const [left, right] = /** @type {[Hook, Hook]} */ (renders.slice(-2));
  await within(Promise.all([left.generate("left"), right.generate("right")]));
  await until(() => shown() === "leftright", "both are shown");
});
