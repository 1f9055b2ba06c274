/** Knows whether the page is being unloaded: the browser then aborts requests, which is not an error of theirs. */

let isUnloading = false;
globalThis.addEventListener?.("pagehide", () => {
  isUnloading = true;
});
globalThis.addEventListener?.("pageshow", () => {
  isUnloading = false;
});

export function isPageUnloading() {
  return isUnloading;
}
