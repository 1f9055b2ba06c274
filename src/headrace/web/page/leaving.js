/** Whether the page is being left: what fails then has not failed, but goes on after a reload. */

// A download asks to leave, too, and then the page stays.
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
