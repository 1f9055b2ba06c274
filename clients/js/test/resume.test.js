// A resumable stream behind a connection that breaks anywhere, any number of times: no token is lost or doubled.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:http";
import { after, test } from "node:test";

import { ConnectionLostError, GenerationError, HeadraceError, NotFoundError } from "../headrace.js";
import {
  client,
  collect,
  ENDLESS,
  endOf,
  MODEL,
  readAll,
  recording,
  rejection,
  servers,
  timeless,
  timelessResult,
  within,
} from "./helpers.js";

/** @import { IncomingMessage, ServerResponse } from "node:http" */

const TEXT = "né🌊\nend";

let count = 0;
function newId() {
  return `resume-${process.pid}-${String(count++).padStart(6, "0")}`;
}

/**
 * What to do with a request: pass so much of the answer on and then break the connection, or answer oneself.
 *
 * @typedef {object} Fate
 * @property {number} [events] pass so many events on, then break; all where neither this nor `bytes` is given
 * @property {number} [bytes] pass so many bytes on after these events, then break
 * @property {"reset" | "close" | "silence"} [how]
 * @property {number} [status] answer with this, and ask nobody; 0 for no answer at all
 */

/**
 * A proxy in front of a server.
 *
 * @param {(number: number, request: IncomingMessage) => Fate} decide for each request for a stream
 * @param {string} target
 */
async function proxy(decide, target = servers.parrot) {
  let streams = 0;
  const server = createServer((incoming, response) => {
    const isStream = incoming.method === "POST" || incoming.url?.startsWith("/v1/streams/") === true;
    const fate = isStream && incoming.method !== "DELETE" ? decide(streams++, incoming) : {};
    if (fate.status !== undefined) {
      if (fate.status > 0) response.writeHead(fate.status).end();
      return;
    }
    const { method = "GET", headers, url } = incoming;
    const outgoing = request(`${target}${url}`, { method, headers: { ...headers, connection: "close" } }, (answer) => {
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      response.flushHeaders();
      passOn(answer, response, fate);
    });
    response.on("close", () => outgoing.destroy());
    outgoing.on("error", () => response.destroy());
    incoming.pipe(outgoing);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  after(() => {
    server.close();
    server.closeAllConnections();
  });
  const address = server.address();
  assert(address !== null && typeof address === "object");
  return { url: `http://127.0.0.1:${address.port}`, seen: () => streams };
}

/**
 * @param {IncomingMessage} answer
 * @param {ServerResponse} response
 * @param {Fate} fate
 */
function passOn(answer, response, { events, bytes, how = "reset" }) {
  const isBroken = events !== undefined || bytes !== undefined;
  let body = Buffer.alloc(0);
  let passed = 0;
  /** Where the connection breaks, as far as one knows. */
  const limit = () => {
    let at = 0;
    for (let number = 0; number < (events ?? 0); number++) {
      const end = body.indexOf("\n\n", at);
      if (end < 0) return Number.POSITIVE_INFINITY;
      at = end + 2;
    }
    return at + (bytes ?? 0);
  };
  const stopAtLimit = () => {
    if (!isBroken || passed < limit()) return;
    answer.destroy();
    if (how === "reset") response.socket?.resetAndDestroy();
    else if (how === "close") response.socket?.destroySoon();
  };
  answer.on("error", () => {});
  answer.on("end", () => response.end());
  answer.on("data", (/** @type {Buffer} */ data) => {
    body = Buffer.concat([body, data]);
    const end = isBroken ? Math.min(limit(), body.length) : body.length;
    const part = body.subarray(passed, end);
    passed = Math.max(passed, end);
    if (part.length > 0) response.write(part, stopAtLimit);
  });
  stopAtLimit();
}

/** What an unbroken stream comes to, and the sizes of its events in bytes. @param {string} text */
async function unbroken(text) {
  await client().chat(text); // from now on the prompt is cached, and all usages are the same
  const record = recording();
  const { tokens, result } = await readAll(
    client({ model: MODEL, fetch: record.fetch }).chatStream(text, { resumable: true, requestId: newId() }),
  );
  const response = record.responses[0];
  assert(response);
  const events = Buffer.from(response.bytes).toString("latin1").split("\n\n").slice(0, -1);
  const sizes = events.map((event) => event.length + 2);
  return { tokens: tokens.map(timeless), result: timelessResult(result), sizes };
}

/**
 * A stream through a proxy is the same as one without.
 *
 * @param {string} url
 * @param {string} text
 * @param {Awaited<ReturnType<typeof unbroken>>} whole
 * @param {object} [options]
 */
async function isWhole(url, text, whole, options = {}) {
  const id = newId();
  /** @type {string[]} */
  const states = [];
  const { tokens, result } = await readAll(
    client({ baseUrl: url, model: MODEL }).chatStream(text, {
      resumable: true,
      requestId: id,
      onConnection: (state) => states.push(state),
      ...options,
    }),
  );
  assert.deepEqual(tokens.map(timeless), whole.tokens);
  assert.deepEqual(timelessResult(result), { ...whole.result, id });
  assert.deepEqual(
    states,
    states.map((_, index) => (index % 2 === 0 ? "lost" : "resumed")),
  );
  return states.length / 2;
}

test("the connection breaks once, at every event boundary and inside of events", { timeout: 300_000 }, async () => {
  const whole = await unbroken(TEXT);
  /** @type {Fate[]} */
  const fates = whole.sizes.flatMap((size, events) => {
    // The last ones have times in them, and so are not always of the same size: of these, the beginning will do.
    const isSame = events < whole.sizes.length - 3;
    const places = isSame ? [0, 1, 6, 17, 60, 100, size - 3, size - 2, size - 1] : [0, 1, 6, 10];
    return places.map((bytes, index) => ({ events, bytes, how: index % 3 === 0 ? "close" : "reset" }));
  });
  let current = fates[0];
  const { url, seen } = await proxy((number) => (number % 2 === 0 ? (current ?? {}) : {}));
  for (const fate of fates) {
    current = fate;
    const before = seen();
    await isWhole(url, TEXT, whole);
    assert.equal(seen() - before, 2, `one broken connection, and one that was not: ${JSON.stringify(fate)}`);
  }
});

test("it breaks after every single event", async () => {
  const whole = await unbroken(TEXT);
  const { url, seen } = await proxy(() => ({ events: 1 }));
  const breaks = await isWhole(url, TEXT, whole);
  assert.equal(breaks, whole.sizes.length - 1, "with the [DONE] it is over");
  assert.equal(seen(), whole.sizes.length);
});

test("thoughts, calls and their parts survive it, too", async () => {
  const text = "<think>\nhm ö\n</think>\n\nHé 🌊";
  const whole = await unbroken(text);
  const { url } = await proxy((number) => ({ bytes: 700 + 97 * number, how: number % 2 === 0 ? "reset" : "close" }));
  assert((await isWhole(url, text, whole)) > 5);
  assert.equal(whole.result.thinking, "hm ö");
});

test("the server is out of reach for a while, and behind a proxy that says so", async () => {
  const whole = await unbroken(TEXT);
  const fates = [{ bytes: 900 }, { status: 502 }, { status: 503 }, { bytes: 0 }, { status: 504 }];
  const { url, seen } = await proxy((number) => fates[number] ?? {});
  assert.equal(await isWhole(url, TEXT, whole), 2);
  assert.equal(seen(), fates.length + 1);
});

test("a connection that falls silent is taken up anew", async () => {
  const whole = await unbroken(TEXT);
  const { url } = await proxy((number) => (number === 0 ? { bytes: 900, how: "silence" } : {}));
  assert.equal(await isWhole(url, TEXT, whole, { idleTimeoutMs: 100 }), 1);
});

test("what is read all at once is the same", async () => {
  const { url } = await proxy((number) => (number < 3 ? { bytes: 800 } : {}));
  const result = await within(client({ baseUrl: url }).chat(TEXT, { resumable: true }));
  assert.equal(result.text, TEXT);
});

test("a stream that is not resumable ends with its connection, and is not asked for again", async () => {
  const { url, seen } = await proxy(() => ({ bytes: 900 }));
  const answer = await client({ baseUrl: url }).chatStream(TEXT, {
    onConnection: () => assert.fail("it is not taken up again"),
  });
  const error = await rejection(answer.result, ConnectionLostError);
  assert(TEXT.startsWith(error.partial?.text ?? "?"));
  assert.equal(seen(), 1);
});

test("the server stays out of reach", async () => {
  const { url } = await proxy((number) => (number === 0 ? { bytes: 900 } : { status: 502 }));
  const answer = await client({ baseUrl: url }).chatStream(TEXT, { resumable: true, reconnectTimeoutMs: 300 });
  let text = "";
  const loop = async () => {
    for await (const piece of answer.stream) text += piece;
  };
  const error = await rejection(loop(), ConnectionLostError);
  assert.equal(error.code, "connection_lost");
  assert.equal(error.partial?.text, text);
  assert.match(error.message, /502/);
  assert.equal(await rejection(answer.result, ConnectionLostError), error);
});

test("connections that break at once are not asked for without end", async () => {
  const { url, seen } = await proxy((number) => (number === 0 ? { bytes: 900 } : { events: 0 }));
  /** @type {string[]} */
  const states = [];
  const options = {
    resumable: true,
    reconnectTimeoutMs: 400,
    onConnection: (/** @type {string} */ state) => states.push(state),
  };
  const answer = await client({ baseUrl: url }).chatStream("repeat 2000: x", options);
  await rejection(answer.result, ConnectionLostError);
  assert(seen() < 10, `${seen()} requests`);
  assert(states.length < 20, states.join());
});

test("a server that takes a request to go on, and says nothing", async () => {
  const { url } = await proxy((number) => (number === 0 ? { bytes: 900 } : { status: 0 }));
  const answer = await client({ baseUrl: url }).chatStream(TEXT, { resumable: true, reconnectTimeoutMs: 300 });
  const error = await rejection(answer.result, ConnectionLostError);
  assert.match(error.message, /silent/);
});

test("after a silence longer than the time for reconnecting, there is still all of that time", async () => {
  const fates = [{ bytes: 900, how: /** @type {const} */ ("silence") }, { status: 502 }, { status: 503 }, {}];
  const { url } = await proxy((number) => fates[Math.min(number, 3)] ?? {});
  const options = { resumable: true, idleTimeoutMs: 1500, reconnectTimeoutMs: 1400 };
  const { result } = await readAll(client({ baseUrl: url }).chatStream(TEXT, options));
  assert.equal(result.text, TEXT);
});

test("resumeStream that does not come through leaves the stream alone", async () => {
  const id = newId();
  const answer = await client().chatStream(ENDLESS, { resumable: true, maxTokens: 20_000, requestId: id });
  const failing = client({ fetch: () => Promise.reject(new TypeError("no network")) });
  await rejection(failing.resumeStream(id), ConnectionLostError);
  for await (const token of answer.streamEvents) if (token.index > 200) break;
  assert.equal((await within(answer.result)).finishReason, "cancelled", "only by the break");
});

test("a stream stays with the server that it began with", async () => {
  const moving = client();
  const answer = await moving.chatStream(ENDLESS, { maxTokens: 20_000 });
  moving.configure({ baseUrl: "http://127.0.0.1:1" });
  answer.cancel();
  const { usage } = await within(answer.result);
  assert(usage.promptTokens, "it has told what was used");
});

test("the key is not valid any more", async () => {
  const { url, seen } = await proxy((number) => (number === 0 ? { bytes: 900 } : { status: 401 }));
  const answer = await client({ baseUrl: url }).chatStream(TEXT, { resumable: true });
  const error = await rejection(answer.result, HeadraceError);
  assert(TEXT.startsWith(error.partial?.text ?? "?"), "what had come is there");
  assert.equal(seen(), 2, "it is not tried again");
});

test("the server has forgotten the stream", async () => {
  const { url, seen } = await proxy((number) => (number === 0 ? { bytes: 900 } : {}), servers.forgetful);
  const id = newId();
  const answer = await client({ baseUrl: url }).chatStream(TEXT, { resumable: true, requestId: id });
  await endOf(id); // it runs without us, and is forgotten
  const error = await rejection(answer.result, HeadraceError);
  assert(TEXT.startsWith(error.partial?.text ?? "?"));
  assert.equal(seen(), 2);
});

test("events are gone that were not seen", async () => {
  const id = newId();
  const { url, seen } = await proxy((number) => (number === 0 ? { bytes: 0 } : {}), servers.forgetful);
  const answer = await client({ baseUrl: url }).chatStream("repeat 300: x", { resumable: true, requestId: id });
  await endOf(id);
  await rejection(answer.result, HeadraceError);
  assert.equal(seen(), 2);
});

test("a stream that failed meanwhile fails here", async () => {
  const { url } = await proxy((number) => (number === 0 ? { bytes: 700 } : {}));
  const answer = await client({ baseUrl: url }).chatStream("fail: abc", { resumable: true });
  const error = await rejection(answer.result, GenerationError);
  assert.deepEqual([error.code, error.partial?.text], ["generation_failed", "abc"]);
});

// Leaving while the connection is gone

for (const [what, leave] of /** @type {const} */ ([
  ["cancel", (/** @type {import("../headrace.js").LLMStreamingResult} */ answer) => answer.cancel()],
  ["an aborted signal", (/** @type {unknown} */ _, /** @type {AbortController} */ controller) => controller.abort()],
])) {
  test(`${what} ends a stream that waits for its connection`, async () => {
    const { url } = await proxy((number) => (number === 0 ? { bytes: 900 } : { status: 502 }));
    const controller = new AbortController();
    const id = newId();
    const answer = await client({ baseUrl: url }).chatStream(ENDLESS, {
      resumable: true,
      requestId: id,
      signal: controller.signal,
      onConnection: () => leave(answer, controller),
    });
    const outcome = await within(
      answer.result.then(
        (result) => result.finishReason,
        (reason) => reason.name,
      ),
    );
    assert.equal(outcome, what === "cancel" ? "cancelled" : "AbortError");
    assert.equal((await endOf(id)).finish_reason, "cancelled", "a stream that goes on without us must be told");
  });
}

// Coming back

test("resumeStream has the whole stream, while it runs and after its end", async () => {
  const whole = await unbroken(TEXT);
  const id = newId();
  const first = await client().chatStream(TEXT, { resumable: true, requestId: id });
  for (let times = 0; times < 2; times++) {
    const { tokens, result } = await readAll(client().resumeStream(id));
    assert.deepEqual(tokens.map(timeless), whole.tokens);
    assert.deepEqual(timelessResult(result), { ...whole.result, id });
    await within(first.result);
    await endOf(id);
  }
});

test("resumeStream through a connection that breaks", async () => {
  const whole = await unbroken(TEXT);
  const id = newId();
  await within((await client().chatStream(TEXT, { resumable: true, requestId: id })).result);
  const { url } = await proxy((number) => (number < 4 ? { bytes: 700 } : {}));
  const { tokens } = await readAll(client({ baseUrl: url }).resumeStream(id));
  assert.deepEqual(tokens.map(timeless), whole.tokens);
});

test("resumeStream of what is not there", async () => {
  const never = await rejection(client().resumeStream("nobody"), NotFoundError);
  assert.deepEqual([never.status, never.code], [404, "stream_not_found"]);
  const id = newId();
  const answer = await client({ baseUrl: servers.forgetful }).chatStream("abc", { resumable: true, requestId: id });
  await collect(answer.stream);
  await endOf(id);
  const gone = await rejection(client({ baseUrl: servers.forgetful }).resumeStream(id), NotFoundError);
  assert.deepEqual([gone.status, gone.code], [410, "stream_gone"]);
});

test("resumeStream can be cancelled, which ends the stream for all", async () => {
  const id = newId();
  const first = await client().chatStream(ENDLESS, { resumable: true, requestId: id });
  const second = await client().resumeStream(id);
  for await (const _ of second.stream) break;
  assert.equal((await within(second.result)).finishReason, "cancelled");
  assert.equal((await endOf(id)).finish_reason, "cancelled");
  assert.equal((await rejection(first.result, GenerationError)).code, "cancelled");
});
