/** Texts for errors, in plain words. */

import {
  AuthenticationError,
  ConnectionLostError,
  GenerationError,
  InvalidRequestError,
  QueueFullError,
  StreamTimeoutError,
  UnavailableError,
} from "../headrace.js";

/**
 * @param {unknown} error
 * @returns {string} one or two sentences
 */
export function problemText(error) {
  const message = sentence(error instanceof Error ? error.message : String(error));
  if (error instanceof AuthenticationError) return `The server asks for an API key. ${message}`;
  if (error instanceof QueueFullError) return "The server is busy: too many requests are waiting already.";
  if (isLoading(error)) return "The model is being loaded.";
  if (error instanceof UnavailableError) return `The server takes no requests now. ${message}`;
  if (error instanceof InvalidRequestError) return `The server refused the request. ${message}`;
  if (error instanceof StreamTimeoutError) return `The answer took longer than the server allows. ${message}`;
  if (error instanceof GenerationError) return `The answer broke off. ${message}`;
  if (error instanceof ConnectionLostError) {
    return error.code === "unreachable" ? "The server cannot be reached." : "The connection to the server was lost.";
  }
  return message;
}

/** @param {unknown} error */
export function isLoading(error) {
  return error instanceof UnavailableError && error.code === "model_loading";
}

/** @param {string} text */
function sentence(text) {
  const first = text.slice(0, 1).toUpperCase();
  return `${first}${text.slice(1)}${/[.!?…]$/.test(text) ? "" : "."}`;
}
