/** What can be read of a stream of tokens: the text of the answer, or the value of an answer in JSON as it grows. */

import { parsePartialJson } from "./partial-json.js";

/** @import { StreamToken } from "./types.js" */

/** Milliseconds that parsing a growing answer may take; one that takes longer is parsed less often. */
const SLOW_PARSE = 2;

/** @typedef {AsyncGenerator<StreamToken, void, undefined>} Tokens */

/** @param {Tokens} tokens @returns {AsyncGenerator<string, void, undefined>} */
export async function* texts(tokens) {
  for await (const token of tokens) {
    for (const { kind, text } of [token, ...token.rest]) if (kind === "text" && text !== "") yield text;
  }
}

/**
 * Gives the value of the text so far whenever that has changed.
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
    // Parsing a long answer takes no more than a tenth of the time.
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
