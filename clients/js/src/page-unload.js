/** Whether the user is leaving the page: requests that fail then have not failed, but were cut off by the browser. */

let leaving = false;
globalThis.addEventListener?.("pagehide", () => {
  leaving = true;
});
globalThis.addEventListener?.("pageshow", () => {
  leaving = false;
});

export function isLeaving() {
  return leaving;
}
