/** Texts put together at random, lexed as they grow and at once: the blocks must be the same at each moment. */

import { blocksOf } from "../page/markdown-blocks.js";

const ATOMS = [
  ..."a|b c|\n|\n|\n\n|- |* |1. |2) |> |# |```|~~~|```js|    |\t|---|===|***|**x**|_y_|`c`|[l](http://x.y)".split("|"),
  ..."<div>|</div>|<!--|-->|<b>| |  |\\|&amp;|- [ ] t|![i](http://q.r)|$".split("|"),
  ...["| a | b |\n|---|---|\n", "|", "| x | y |"],
];

/** A generator of numbers from 0 to 1, always the same ones for a seed. */
function* numbers(seed) {
  for (let state = seed; ; ) {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    yield state / 2 ** 31;
  }
}

/** What a view would show: the settled blocks, and those after them. */
class Blocks {
  settled = [];
  length = 0;
  open = null;

  /** All blocks of a text as JSON. */
  of(text, isComplete) {
    const job = { text: text.slice(this.length), open: this.open, definitions: [], isComplete };
    const { blocks, settled } = blocksOf(job);
    const all = [...this.settled, ...blocks];
    this.settled.push(...blocks.slice(0, settled.blocks));
    this.length += settled.length;
    this.open = settled.open;
    return JSON.stringify(all);
  }
}

/** Where so many texts differ, at most a few. */
export function fuzz(seed, count) {
  const random = numbers(seed);
  const below = (limit) => Math.floor(random.next().value * limit);
  const different = [];
  for (let number = 0; number < count && different.length < 5; number += 1) {
    const text = Array.from({ length: 1 + below(14) }, () => ATOMS[below(ATOMS.length)]).join("");
    const growing = new Blocks();
    for (let length = 1; length <= text.length; length += 1) {
      const piece = text.slice(0, length);
      const [got, wanted] = [growing.of(piece, false), new Blocks().of(piece, true)];
      if (got !== wanted) different.push({ text: piece, got, wanted });
    }
  }
  return different;
}
