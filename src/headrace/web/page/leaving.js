/** Whether the page is being left. Streams that break then are resumed after a reload. */

// A download fires `beforeunload` too, but then the page stays.
const DOUBT_MS = 2000;

let isGoing = false;

addEventListener("beforeunload", () => {
  isGoing = true;
  setTimeout(() => {
    isGoing = false;
  }, DOUBT_MS);
});
addEventListener("pagehide", () => {
  isGoing = true;
});
addEventListener("pageshow", () => {
  isGoing = false;
});

export function isLeaving() {
  return isGoing;
}
