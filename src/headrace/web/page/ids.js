/** Unique ids for conversations and streams. */

/** 128 random bits. (`crypto.randomUUID` is missing on pages loaded by plain http.) */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
