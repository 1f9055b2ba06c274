// Server-sent events, wherever the bytes are cut.
import assert from "node:assert/strict";
import { test } from "node:test";

import { SseDecoder } from "../headrace.js";

/** @typedef {[data: string, event?: string, id?: string]} Expected */

/** @type {[what: string, text: string, events: Expected[]][]} */
const STREAMS = [
  ["nothing", "", []],
  ["one event", "data: a\n\n", [["a"]]],
  ["no space after the colon, and two", "data:a\n\ndata:  b\n\n", [["a"], [" b"]]],
  ["carriage returns", "data: a\r\rdata: b\r\r", [["a"], ["b"]]],
  ["both", "data: a\r\n\r\ndata: b\r\n\r\n", [["a"], ["b"]]],
  ["a mix of them", "data: a\r\ndata: b\n\rdata: c\r\n\n", [["a\nb"], ["c"]]],
  ["comments", ": ping\n\n: ping\ndata: a\n: ping\ndata: b\n\n:\n\n", [["a\nb"]]],
  ["a byte order mark", "\uFEFFdata: a\n\ndata: \uFEFFb\n\n", [["a"], ["\uFEFFb"]]],
  ["several lines of data", "data: a\ndata:\ndata: b\n\n", [["a\n\nb"]]],
  ["empty data", "data\n\ndata:\n\ndata: \n\n", [[""], [""], [""]]],
  [
    "names and ids",
    "event: x\nid: 7\ndata: a\n\ndata: b\n\n",
    [
      ["a", "x", "7"],
      ["b", "message", "7"],
    ],
  ],
  ["an id alone", "id: 7\n\ndata: a\n\nid\ndata: b\n\n", [["a", "message", "7"], ["b"]]],
  ["an id that is none", "id: 7\0\ndata: a\n\n", [["a"]]],
  ["fields that nobody knows", "retry: 5\nfoo: bar\nDATA: no\ndata: a\n\n", [["a"]]],
  ["colons in data", 'data: {"a": "b:c"}\n\n', [['{"a": "b:c"}']]],
  ["characters of all lengths", "data: aé€🌊𝄞e\u0301\n\n", [["aé€🌊𝄞e\u0301"]]],
  ["line breaks that are none", "data: a\u2028b\u2029c\u0085d\vf\n\n", [["a\u2028b\u2029c\u0085d\vf"]]],
  ["an event that is not complete", "data: a\n\ndata: b\n", [["a"]]],
  ["a line that is not complete", "data: a\n\ndata: b", [["a"]]],
];

/** @param {Uint8Array[]} chunks */
function decoded(chunks) {
  const decoder = new SseDecoder();
  const events = chunks.flatMap((chunk) => decoder.feed(chunk));
  decoder.flush();
  assert.deepEqual(decoder.feed(new TextEncoder().encode("\n\n")), [], "what was incomplete at the end is dropped");
  return events;
}

for (const [what, text, expected] of STREAMS) {
  test(`${what}, cut anywhere`, () => {
    const bytes = new TextEncoder().encode(text);
    const events = expected.map(([data, event = "message", id = ""]) => ({ data, event, id }));
    for (let cut = 0; cut <= bytes.length; cut++) {
      assert.deepEqual(decoded([bytes.slice(0, cut), bytes.slice(cut)]), events, `cut at ${cut}`);
      for (let second = cut; second <= bytes.length; second++) {
        const chunks = [bytes.slice(0, cut), bytes.slice(cut, second), bytes.slice(second)];
        assert.deepEqual(decoded(chunks), events, `cut at ${cut} and ${second}`);
      }
    }
    const single = Array.from(bytes, (byte) => Uint8Array.of(byte));
    assert.deepEqual(decoded(single), events);
    assert.deepEqual(decoded(single.flatMap((byte) => [byte, new Uint8Array()])), events, "with empty chunks between");
  });
}

test("bytes that are no UTF-8 become replacement characters, and what follows them is read", () => {
  const bytes = Uint8Array.from([...Buffer.from("data: a"), 0xff, 0xf0, 0x9f, ...Buffer.from("b\n\ndata: c\n\n")]);
  for (let cut = 0; cut <= bytes.length; cut++) {
    const events = decoded([bytes.slice(0, cut), bytes.slice(cut)]);
    assert.deepEqual(
      events.map((event) => event.data),
      ["a\uFFFD\uFFFDb", "c"],
    );
  }
});
