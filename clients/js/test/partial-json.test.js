// JSON that may end anywhere: each prefix has a value, and the values only ever grow.
import assert from "node:assert/strict";
import { test } from "node:test";

import { parsePartialJson } from "../headrace.js";

/** @type {unknown[]} */
const DOCUMENTS = [
  {},
  [],
  "",
  0,
  -1.5e-7,
  12,
  true,
  false,
  null,
  "a",
  [[]],
  [{}],
  { a: {} },
  { "": "" },
  { a: 1, b: [true, null, "x"], c: { d: { e: [] } } },
  [1, 22, 333, -4.5, 6e7],
  ["true", "nul", "1", "{", "}", "[", "]", ",", ":", '"', "\\", '\\"', "\\\\", "/"],
  { '"': 1, "\\": 2, "{": 3, ",": 4 },
  "line\nbreak\ttab\u0000\u001f",
  "é€🌊👩‍👩‍👧\u2028",
  ["\ud83c\udf0a", "\u00e9"],
  { constructor: 1, toString: { hasOwnProperty: [] } },
  Array.from({ length: 20 }, (_, index) => ({ index, even: index % 2 === 0 })),
];

/** Texts with escapes and white space that JSON.stringify does not write. */
const TEXTS = [
  '"\\u0041\\ud83c\\udf0a\\u00e9"',
  '"\\ud83c"',
  '"\\udf0a x"',
  '"\\/\\b\\f\\n\\r\\t"',
  ' \n\t{ "a" :\r\n [ 1 , 2 ] , "b" : "c" } \n',
  "[ ]",
  "{ }",
  '{"a":1,"a":2}',
  "1E+2",
  "[0.5,-0,1e5]",
  '{"__proto__": 1}',
];

/**
 * Whether one value can become the other by growing: strings and lists by more at the end, objects by more keys.
 *
 * @param {unknown} before
 * @param {unknown} now
 * @returns {boolean}
 */
function growsInto(before, now) {
  if (typeof before === "string") return typeof now === "string" && now.startsWith(before);
  if (Array.isArray(before)) {
    return Array.isArray(now) && before.length <= now.length && before.every((one, at) => growsInto(one, now[at]));
  }
  if (typeof before === "object" && before !== null) {
    if (typeof now !== "object" || now === null || Array.isArray(now)) return false;
    return Object.entries(before).every(
      ([key, value]) => Object.hasOwn(now, key) && growsInto(value, Reflect.get(now, key)),
    );
  }
  return Object.is(before, now);
}

/** @param {string} text @param {boolean} [hasDoubles] where a key comes twice, its value may be replaced */
function check(text, hasDoubles = false) {
  /** @type {unknown} */
  let before;
  for (let end = 0; end <= text.length; end++) {
    const prefix = text.slice(0, end);
    const value = parsePartialJson(prefix);
    // A number alone may always go on: 1, 12, 12.5.
    if (before !== undefined && typeof before !== "number") {
      assert(
        hasDoubles || growsInto(before, value),
        `${JSON.stringify(before)} became ${JSON.stringify(value)} with ${JSON.stringify(prefix)}`,
      );
    }
    before = value;
  }
  assert.deepEqual(before, JSON.parse(text), text);
}

test("every prefix of many documents", () => {
  for (const value of DOCUMENTS) {
    check(JSON.stringify(value));
    check(JSON.stringify(value, null, 2));
  }
  for (const text of TEXTS) check(text, text.includes('"a":1,"a"'));
});

test("what is there of a text that has just begun", () => {
  for (const [text, value] of /** @type {[string, unknown][]} */ ([
    ["", undefined],
    ["  ", undefined],
    ["{", {}],
    ['{"a', {}],
    ['{"a"', {}],
    ['{"a":', {}],
    ['{"a": "', { a: "" }],
    ['{"a": "b', { a: "b" }],
    ['{"a": "b\\', { a: "b" }],
    ['{"a": "b\\u00', { a: "b" }],
    ['{"a": "b\\ud83c', { a: "b" }],
    ['{"a": "b\\ud83c\\udf0a', { a: "b🌊" }],
    ['{"a": "b"', { a: "b" }],
    ['{"a": 1', {}],
    ['{"a": 1,', { a: 1 }],
    ['{"a": tru', {}],
    ['{"a": true', {}],
    ['{"a": true}', { a: true }],
    ['{"a": [1, 2', { a: [1] }],
    ['{"a": [1, 2]', { a: [1, 2] }],
    ['{"a": [[{"b": "c', { a: [[{ b: "c" }]] }],
    ['"abc', "abc"],
    ["[", []],
    ["12", 12],
  ])) {
    assert.deepEqual(parsePartialJson(text), value, text);
  }
});

test("text that is no JSON never throws", () => {
  for (const text of [
    "hello",
    "}",
    "]",
    ",",
    ":",
    "{]",
    "[}",
    '{"a" 1',
    "[1 2",
    '"\\x"',
    "{,",
    "nope",
    "undefined",
    "\u0000",
    '{"a":}',
  ]) {
    for (let end = 0; end <= text.length; end++) parsePartialJson(text.slice(0, end));
  }
});

test("deep nesting never throws", () => {
  const deep = "[".repeat(20_000);
  parsePartialJson(deep);
  parsePartialJson('{"a":'.repeat(5000));
});

test("random documents", () => {
  const random = generator(20261121);
  for (let count = 0; count < 400; count++) {
    const value = randomValue(random, 4);
    check(JSON.stringify(value, null, random() < 0.3 ? 1 : undefined));
  }
});

/** Numbers from 0 to 1, the same for the same seed (mulberry32). @param {number} seed */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * @param {() => number} random
 * @param {number} depth
 * @returns {unknown}
 */
function randomValue(random, depth) {
  const kind = Math.floor(random() * (depth > 0 ? 6 : 4));
  const length = Math.floor(random() * 4);
  if (kind === 0) return randomText(random);
  if (kind === 1) return (random() - 0.5) * 10 ** Math.floor(random() * 20 - 10);
  if (kind === 2) return Math.floor(random() * 1000);
  if (kind === 3) return [true, false, null][Math.floor(random() * 3)];
  if (kind === 4) return Array.from({ length }, () => randomValue(random, depth - 1));
  return Object.fromEntries(Array.from({ length }, () => [randomText(random), randomValue(random, depth - 1)]));
}

/** @param {() => number} random */
function randomText(random) {
  const letters = [...'ab "\\/\n\t{}[],:0é🌊'];
  return Array.from({ length: Math.floor(random() * 6) }, () => letters[Math.floor(random() * letters.length)]).join(
    "",
  );
}
