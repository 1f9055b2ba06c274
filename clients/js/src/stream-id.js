/** The ids of streams, and the path that a stream has on its server. */

import { invalidValue } from "./invalid-request.js";

/** Makes an id for a new stream, without `crypto.randomUUID`: pages that came over plain HTTP do not have that. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} id */
export function streamPath(id) {
  if (typeof id !== "string" || id === "") throw invalidValue("id", id, "the id of a stream, a string");
  return `v1/streams/${encodeURIComponent(id)}`;
}
