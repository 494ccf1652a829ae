// Means of the page: elements from text (never from markup), lists that change in place, ages that tick, commands to
// copy. What is shown comes from strangers, so every text becomes a text node and nothing else.

/** Makes an element; `props` are attributes, or handlers if they are functions. Children are elements or texts. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Shows a text where another one is; leaves the element alone if it is the same. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`, keeping the element of each key, so that focus, selection and what
 * is open survive. `make(item)` returns an element with a function `update(item)` on it.
 */
export function sync(parent, items, key, make) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let element = known.get(id);
    known.delete(id);
    if (!element) {
      element = make(item);
      element.dataset.key = id;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    element.update?.(item);
  }
  for (const element of known.values()) element.remove();
}

/** `2.917s` in milliseconds. */
export function millis(duration) {
  return duration ? parseFloat(duration) * 1000 : 0;
}

/** An age for people: `0.4 s`, `42 s`, `3 min`, `5 h`, `2 d`. */
export function age(ms) {
  const s = Math.max(ms, 0) / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** A count for people. */
export function count(number) {
  // What a reader of some names only is not told.
  if (number === null) return "–";
  return Number(number).toLocaleString("en-US");
}

const ticking = new Set();
let frozen = null;

/** Lets `element` show an age that was `ms` now, and grows. `show(ms)` says how. */
export function tick(element, ms, show) {
  element.began = performance.now() - ms;
  element.show = show;
  ticking.add(element);
  show(ms);
}

/** Lets all ages stand still, or go on. */
export function freeze(still) {
  frozen = still ? performance.now() : null;
}

setInterval(() => {
  for (const element of ticking) {
    if (!element.isConnected && performance.now() - element.began > 60000) ticking.delete(element);
    else if (element.isConnected && frozen === null) element.show(performance.now() - element.began);
  }
}, 500);

/** Quotes a word for a shell. */
export function quote(word) {
  return /^[A-Za-z0-9_.:/@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command line with a button that copies it. */
export function command(line) {
  const code = h("code", null, line);
  const button = h("button", { type: "button", "aria-label": `Copy: ${line}`, click: () => copy(line, button) }, "Copy");
  const element = h("span", { class: "command" }, code, button);
  element.update = (text) => {
    write(code, text);
    line = text;
    button.setAttribute("aria-label", `Copy: ${text}`);
  };
  return element;
}

/** Copies a text; says so, also to those who listen. */
export async function copy(text, button) {
  const said = document.getElementById("said");
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = "Copied";
  } catch {
    // Without a secure origin there is no clipboard: select it, so that the keyboard can copy it.
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    said.textContent = "Selected; copy it with the keyboard";
  }
  const before = button.textContent;
  button.textContent = said.textContent.split(";")[0];
  setTimeout(() => (button.textContent = before), 1500);
}
