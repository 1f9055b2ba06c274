/** Changes an element into another one and keeps what is the same: the reader's selection, and its layout. */

/**
 * @template {ChildNode} Node
 * @param {Node} before what is on the page
 * @param {Node} after what is to be there
 * @returns {Node} what is there now, one of the two
 */
export function morph(before, after) {
  if (before.isEqualNode(after)) return before;
  if (before instanceof Text && after instanceof Text) {
    if (after.data.startsWith(before.data)) before.appendData(after.data.slice(before.length));
    else before.data = after.data;
    return before;
  }
  if (!before.cloneNode(false).isEqualNode(after.cloneNode(false))) {
    before.replaceWith(after);
    return after;
  }
  const children = [...before.childNodes];
  const wanted = [...after.childNodes];
  for (const [index, child] of wanted.entries()) {
    if (index < children.length) morph(children[index], child);
    else before.appendChild(child);
  }
  for (const child of children.slice(wanted.length)) child.remove();
  return before;
}
