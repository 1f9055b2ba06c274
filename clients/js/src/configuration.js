/** The settings of a client: the default address of the server, and checks of the values that a caller gives. */

import { invalidSecret, invalidValue, unknownName } from "./invalid-request.js";

/** @import { Configuration } from "./types.js" */

/** The default address: the folder that headrace.js was loaded from over HTTP, otherwise a server on this machine. */
export function defaultBaseUrl() {
  return /^https?:/.test(import.meta.url) ? new URL("./", import.meta.url).href : "http://127.0.0.1:8080/";
}

/**
 * Check the settings that a caller gives. Missing ones stay undefined.
 *
 * @param {Configuration} configuration
 */
export function checkConfiguration(configuration) {
  if (typeof configuration !== "object" || configuration === null) {
    throw invalidValue("configuration", configuration, "an object");
  }
  const allowed = ["apiKey", "baseUrl", "fetch", "model"];
  for (const name of Object.keys(configuration)) {
    if (!allowed.includes(name)) throw unknownName(name, "there is no such setting", allowed);
  }
  const { baseUrl, apiKey, model, fetch } = configuration;
  if (apiKey !== undefined && apiKey !== null && !fitsHeader(apiKey)) {
    throw invalidSecret("apiKey", "printable ASCII characters");
  }
  if (typeof (model ?? "") !== "string") throw invalidValue("model", model, "a string");
  if (typeof (fetch ?? globalThis.fetch) !== "function") throw invalidValue("fetch", fetch, "a function");
  return { baseUrl: baseUrl === undefined ? undefined : folderOf(baseUrl ?? defaultBaseUrl()), apiKey, model, fetch };
}

/** Whether a value can be sent in an HTTP header. @param {unknown} value */
function fitsHeader(value) {
  return typeof value === "string" && /^[ -~]+$/.test(value);
}

/** Returns a server's address with a trailing slash, so that paths can be appended. @param {string | URL} url */
function folderOf(url) {
  const text = String(url);
  const location = /** @type {{ location?: { href: string } }} */ (globalThis).location;
  try {
    const folder = new URL(text.endsWith("/") ? text : `${text}/`, location?.href);
    if (/^https?:$/.test(folder.protocol)) return folder.href;
  } catch {
    // The error below says what is wrong.
  }
  throw invalidValue("baseUrl", url, "the address of a server, such as http://127.0.0.1:8080");
}
