// Text that grows in an element: one write per animation frame.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { createThrottledUpdater } from "../headrace.js";

/** @type {Map<number, () => void>} */
const frames = new Map();
let lastFrame = 0;

/** The screen is drawn. */
function draw() {
  const due = [...frames.values()];
  frames.clear();
  for (const run of due) run();
  return due.length;
}

/** An element that notes what is written to it. */
function fakeElement() {
  /** @type {(string | null)[]} */
  const writes = [];
  return {
    writes,
    get textContent() {
      return writes.at(-1) ?? null;
    },
    set textContent(text) {
      writes.push(text);
    },
  };
}

const { requestAnimationFrame, cancelAnimationFrame } = globalThis;

beforeEach(() => {
  frames.clear();
  globalThis.requestAnimationFrame = (run) => {
    frames.set(++lastFrame, () => run(0));
    return lastFrame;
  };
  globalThis.cancelAnimationFrame = (id) => {
    frames.delete(id);
  };
});

afterEach(() => Object.assign(globalThis, { requestAnimationFrame, cancelAnimationFrame }));

test("one write per frame, however many tokens", () => {
  const element = fakeElement();
  const updater = createThrottledUpdater(element);
  for (let i = 0; i < 1000; i++) updater.append("ab");
  assert.deepEqual(element.writes, []);
  assert.equal(draw(), 1);
  assert.deepEqual(element.writes, ["ab".repeat(1000)]);
  assert.equal(draw(), 0, "nothing is asked for where nothing came");
  updater.append("c");
  assert.equal(draw(), 1);
  assert.deepEqual(element.writes.slice(1), [`${"ab".repeat(1000)}c`]);
});

test("reset empties the element at once, and takes the frame back", () => {
  const element = fakeElement();
  const updater = createThrottledUpdater(element);
  updater.append("old");
  updater.reset();
  assert.equal(element.textContent, "");
  assert.equal(draw(), 0);
  assert.equal(element.textContent, "");
  updater.append("new");
  draw();
  assert.equal(element.textContent, "new");
  updater.reset();
  assert.equal(element.textContent, "");
});

test("flush writes now, and once", () => {
  const element = fakeElement();
  const updater = createThrottledUpdater(element);
  updater.append("a");
  updater.flush();
  assert.deepEqual(element.writes, ["a"]);
  assert.equal(draw(), 0);
  assert.deepEqual(element.writes, ["a"]);
  updater.append("b");
  draw();
  assert.deepEqual(element.writes, ["a", "ab"]);
});

test("several updaters have a frame each, and do not mix", () => {
  const [left, right] = [fakeElement(), fakeElement()];
  const [one, other] = [createThrottledUpdater(left), createThrottledUpdater(right)];
  one.append("l");
  other.append("r");
  other.append("r");
  one.reset();
  assert.equal(draw(), 1);
  assert.deepEqual([left.writes, right.writes], [[""], ["rr"]]);
});

test("text that arrives while it is written is in the next frame", () => {
  const element = fakeElement();
  const updater = createThrottledUpdater(element);
  updater.append("a");
  const { set } = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(element, "textContent"));
  Object.defineProperty(element, "textContent", {
    get: () => element.writes.at(-1),
    set(text) {
      set?.call(this, text);
      if (text === "a") updater.append("b");
    },
  });
  draw();
  assert.deepEqual(element.writes, ["a"]);
  draw();
  assert.deepEqual(element.writes, ["a", "ab"]);
});

test("appending nothing is harmless", () => {
  const element = fakeElement();
  const updater = createThrottledUpdater(element);
  updater.append("");
  draw();
  assert.equal(element.textContent ?? "", "");
});
