/** Generators over a stream's tokens: `texts` yields its text, `objects` the value of a growing JSON answer. */

import { parsePartialJson } from "./partial-json.js";

/** @import { StreamToken } from "./types.js" */

/** Milliseconds of parsing above which a growing answer is parsed less often. */
const SLOW_PARSE = 2;

/** @typedef {AsyncGenerator<StreamToken, void, undefined>} Tokens */

/** @param {Tokens} tokens @returns {AsyncGenerator<string, void, undefined>} */
export async function* texts(tokens) {
  for await (const token of tokens) {
    for (const { kind, text } of [token, ...token.rest]) if (kind === "text" && text !== "") yield text;
  }
}

/**
 * Yield the value of the text so far whenever it has changed.
 *
 * @param {Tokens} tokens
 * @returns {AsyncGenerator<unknown, void, undefined>}
 */
export async function* objects(tokens) {
  let text = "";
  let before = "";
  let nextTime = 0;
  const value = () => {
    const started = performance.now();
    const parsed = parsePartialJson(text);
    const json = JSON.stringify(parsed);
    const spent = performance.now() - started;
    // Slow parsing takes at most a tenth of the time.
    nextTime = spent > SLOW_PARSE ? started + 10 * spent : 0;
    if (json === undefined || json === before) return undefined;
    before = json;
    return parsed;
  };
  for await (const piece of texts(tokens)) {
    text += piece;
    const now = performance.now() < nextTime ? undefined : value();
    if (now !== undefined) yield now;
  }
  const last = value();
  if (last !== undefined) yield last;
}
