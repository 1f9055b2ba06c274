// The package as it is installed: each way to use it, compiled against its types and run.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { document, drawFrame, holdFrames } from "../dom.js";
// React looks for a document when it is loaded, so it comes after that.

import { TextGeneration } from "headrace";
import type { ReactElement } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";

import { tell } from "./basic.js";
import { tellFor } from "./cancellable.js";
import { Answer } from "./component.js";
import { Streaming } from "./hook.js";
import { names } from "./names.js";
import { show } from "./updater.js";

holdFrames();
TextGeneration.configure({ baseUrl: process.env.PARROT_URL ?? "" });

async function until(condition: () => unknown, what: string): Promise<void> {
  for (const deadline = Date.now() + 60_000; !condition(); await sleep(5)) {
    assert(Date.now() < deadline, `waited in vain until ${what}`);
  }
}

function element(): HTMLElement {
  return document.body.appendChild(document.createElement("div"));
}

function render(component: ReactElement): HTMLElement {
  const container = element();
  const root = createRoot(container);
  flushSync(() => root.render(component));
  after(() => flushSync(() => root.unmount()));
  return container;
}

function click(container: HTMLElement, name: string): void {
  const buttons = [...container.querySelectorAll("button")];
  const button = buttons.find((one) => one.textContent === name);
  assert(button, `there is no button ${name}`);
  button.click();
}

test("basic", async () => {
  const output = element();
  assert.match(await tell(output), /^\d+ tokens, \d+\.\d tok\/s, \d+ ms, \d+ ms$/);
  assert.equal(output.textContent, "once, ".repeat(9));
});

test("a component", async () => {
  const container = render(<Answer prompt="repeat 20: ab" />);
  click(container, "Ask");
  await until(() => container.querySelector("small"), "there are metrics");
  assert.equal(container.querySelector("p")?.textContent, "ab".repeat(20));
  assert.match(container.querySelector("small")?.textContent ?? "", /^\d+\.\d tok\/s, [\d.]+ ms, 41 tokens$/);
});

test("cancelled after some time", async () => {
  const { text, reason } = await tellFor(50);
  assert.equal(reason, "cancelled");
  assert.match(text, /^x*$/);
});

for (const isOwn of [true, false]) {
  test(isOwn ? "a hook of one's own" : "the hook", async () => {
    const container = render(<Streaming isOwn={isOwn} />);
    const shows = (text: string) =>
      until(() => {
        drawFrame();
        return container.querySelector("output")?.textContent === text;
      }, `it shows ${text}`);
    const text = () => container.querySelector("p")?.textContent ?? "";
    await shows("idle");
    click(container, "Short");
    await shows("stop");
    assert.equal(text(), "abc");
    click(container, "Long");
    await shows("streaming");
    await until(() => {
      drawFrame();
      return text().length > 3;
    }, "there is some text");
    click(container, "Stop");
    await shows("cancelled");
    click(container, "Wrong");
    await shows("InvalidRequestError");
  });
}

test("an updater", async () => {
  const output = element();
  await show(output);
  assert.equal(output.textContent, "");
  assert.equal(drawFrame(), 1);
  assert.equal(output.textContent, "word ".repeat(100));
});

test("all names", () => {
  assert.equal(names.explanation, "again in 5 ms");
  assert.deepEqual(names.parsed, [[]]);
});
