// What the tests share: where the servers are, servers made by hand, and waiting that ends in a failure, not in a hang.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { TextGenerationClient } from "../headrace.js";

/**
 * @import { Socket } from "node:net"
 * @import { LLMGenerationResult, LLMStreamingResult, StreamToken } from "../headrace.js"
 */

const PATIENCE_MS = 60_000;

/** @type {unknown[]} */
const unhandled = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));
after(() => assert.deepEqual(unhandled, [], "a rejection was left unhandled"));

/** @param {string} name */
function environment(name) {
  const value = process.env[name];
  assert(value, `${name} is not set: these tests are started by pytest tests/javascript, which starts the servers`);
  return value;
}

/** The servers that pytest has started: a real model, and models that say what their user tells them to say. */
export const servers = {
  get real() {
    return environment("REAL_URL");
  },
  get parrot() {
    return environment("PARROT_URL");
  },
  /** Wants the key "secret", runs one stream while one more waits, takes 10 kB, and lets a stream run for 3 s. */
  get guarded() {
    return environment("GUARDED_URL");
  },
  /** Forgets a resumable stream when it has ended, and its events before that. */
  get forgetful() {
    return environment("FORGETFUL_URL");
  },
};

export const MODEL = "parrot";

/** A client of the scripted server; of another one where `config` says so. */
export function client(config = {}) {
  return new TextGenerationClient({ baseUrl: servers.parrot, ...config });
}

/** What makes the scripted model say something endless. */
export const ENDLESS = "repeat 20000: x";
/** The same of the guarded server, so much of it that no buffer holds it. */
export const FLOOD = "flood!";

/**
 * The line of the log that says how a stream ended; waits for it.
 *
 * @param {string} id
 * @param {"PARROT_LOG" | "REAL_LOG"} log
 * @returns {Promise<{ finish_reason: string, cancelled_by: string | null, completion_tokens: number,
 *   prompt_tokens: number, cached_tokens: number }>}
 */
export async function endOf(id, log = "PARROT_LOG") {
  const path = environment(log);
  return until(async () => {
    const text = await readFile(path, "utf8");
    const lines = text.slice(0, text.lastIndexOf("\n")).split("\n");
    const records = lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
    return records.find((record) => record.id === id && "finish_reason" in record);
  }, `the log has the end of ${id}`);
}

/**
 * Wait for what only another process can bring about; gives the first value that is not false.
 *
 * @template T
 * @param {() => T | Promise<T>} probe
 * @param {string} what
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(probe, what) {
  for (const deadline = Date.now() + PATIENCE_MS; ; await sleep(5)) {
    const value = await probe();
    if (value) return value;
    assert(Date.now() < deadline, `waited in vain until ${what}`);
  }
}

/**
 * Make a hang a failure.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {string} [what]
 * @returns {Promise<T>}
 */
export function within(promise, what = "it to settle") {
  /** @type {NodeJS.Timeout} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, /** @type {Promise<never>} */ (late)]).finally(() => clearTimeout(timer));
}

/**
 * @template T
 * @param {AsyncIterable<T>} iterable
 * @returns {Promise<T[]>}
 */
export async function collect(iterable) {
  /** @type {T[]} */
  const all = [];
  await within(
    (async () => {
      for await (const one of iterable) all.push(one);
    })(),
    `the end of a stream, after ${all.length} items`,
  );
  return all;
}

/**
 * The error that a promise rejects with, which must be of this class.
 *
 * @template {Error} E
 * @param {Promise<unknown>} promise
 * @param {new (...args: never[]) => E} kind
 * @returns {Promise<E>}
 */
export async function rejection(promise, kind) {
  const error = await within(
    promise.then(
      (value) => assert.fail(`it resolved: ${JSON.stringify(value)}`),
      (reason) => reason,
    ),
  );
  if (error instanceof kind) return error;
  throw error;
}

/**
 * A token without its time, which no two streams share.
 *
 * @param {StreamToken} token
 */
export function timeless({ timestamp, ...token }) {
  assert.equal(typeof timestamp, "number");
  return token;
}

/**
 * What of a result does not depend on time.
 *
 * @param {LLMGenerationResult} result
 */
export function timelessResult(result) {
  const { tokensPerSecond, latencyMs, timeToFirstTokenMs, timings, ...rest } = result;
  return rest;
}

/**
 * Read a stream to its end.
 *
 * @param {Promise<LLMStreamingResult>} promise
 */
export async function readAll(promise) {
  const answer = await within(promise, "the stream");
  const tokens = await collect(answer.streamEvents);
  return { tokens, result: await within(answer.result, "the result") };
}

/**
 * A `fetch` that answers with these bytes, a chunk at a time.
 *
 * @param {Uint8Array[]} chunks
 * @param {{ status?: number, headers?: Record<string, string> | Headers }} [options]
 * @returns {typeof fetch}
 */
export function replaying(chunks, { status = 200, headers = { "content-type": "text/event-stream" } } = {}) {
  return async () => {
    let at = 0;
    const body = new ReadableStream({
      pull(controller) {
        if (at < chunks.length) controller.enqueue(chunks[at++]);
        else controller.close();
      },
    });
    return new Response(body, { status, headers });
  };
}

/** A `fetch` that notes the whole bytes of each response. */
export function recording() {
  /** @type {{ bytes: Uint8Array, headers: Headers }[]} */
  const responses = [];
  /** @type {typeof fetch} */
  const record = async (input, init) => {
    const response = await fetch(input, init);
    const bytes = new Uint8Array(await response.arrayBuffer());
    responses.push({ bytes, headers: response.headers });
    return new Response(bytes, { status: response.status, headers: response.headers });
  };
  return { fetch: record, responses };
}

/**
 * A TCP server that does with each connection what it is told; closed after the tests.
 *
 * @param {(socket: Socket, count: number) => void | Promise<void>} handle
 * @returns {Promise<string>} its address
 */
export async function listen(handle) {
  /** @type {Set<Socket>} */
  const sockets = new Set();
  let count = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}); // the other side is gone: it was meant to be
    socket.on("close", () => sockets.delete(socket));
    handle(socket, count++);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const address = server.address();
  assert(address !== null && typeof address === "object");
  return `http://127.0.0.1:${address.port}`;
}

/**
 * An HTTP response as it is sent; without a length, it ends where the connection does.
 *
 * @param {number} status
 * @param {string} type
 * @param {string} [body]
 * @param {string} [headers]
 */
export function http(status, type, body = "", headers = "") {
  return `HTTP/1.1 ${status} X\r\nContent-Type: ${type}\r\nConnection: close\r\n${headers}\r\n${body}`;
}

/**
 * A server that sends this to everybody.
 *
 * @param {string} response
 * @param {(socket: Socket) => void} [then] what to do with the connection then; it is ended where nothing is said
 */
export function saying(response, then = (socket) => socket.end()) {
  return listen((socket) => {
    socket.once("data", () => socket.write(response, () => then(socket)));
  });
}
