/** Keeps the end of a growing text in sight while the reader is at the end. */

// A reader within this distance is at the end; in CSS pixels.
const NEAR = 24;

export class Follower {
  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} content the content that grows
   * @param {HTMLButtonElement} toEnd shown while the end is out of sight
   */
  constructor(scroller, content, toEnd) {
    this.#scroller = scroller;
    this.#toEnd = toEnd;
    scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    content.addEventListener("click", (event) => {
      // An element that the reader opens must stay under the pointer.
      if (event.target instanceof Element && event.target.closest("summary")) this.#isFollowing = false;
    });
    toEnd.addEventListener("click", () => {
      this.goToEnd();
      scroller.focus({ preventScroll: true });
    });
    // This runs after the layout of a frame, so reading heights costs nothing.
    const observer = new ResizeObserver(() => this.#onResize());
    observer.observe(content);
    observer.observe(scroller);
  }

  #scroller;
  #toEnd;
  #isFollowing = true;
  #top = 0;

  /** Go to the end, and stay there. */
  goToEnd() {
    this.#isFollowing = true;
    this.#onResize();
  }

  get #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  #onScroll() {
    const top = this.#scroller.scrollTop;
    // Only scrolling up stops following, not new text.
    if (this.#distance <= NEAR) this.#isFollowing = true;
    else if (top < this.#top) this.#isFollowing = false;
    this.#top = top;
    this.#show();
  }

  #onResize() {
    if (this.#isFollowing) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
      this.#top = this.#scroller.scrollTop;
    }
    this.#show();
  }

  #show() {
    this.#toEnd.hidden = this.#isFollowing || this.#distance <= NEAR;
  }
}
