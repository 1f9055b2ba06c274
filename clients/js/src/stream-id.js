/** The ids of streams, and their paths on the server. */

import { invalidValue } from "./invalid-request.js";

/** Make a random id, without `crypto.randomUUID`: pages loaded over plain HTTP do not have that function. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} id */
export function streamPath(id) {
  if (typeof id !== "string" || id === "") throw invalidValue("id", id, "the id of a stream, a string");
  return `v1/streams/${encodeURIComponent(id)}`;
}
