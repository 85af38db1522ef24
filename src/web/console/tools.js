/** Shared helpers of the console: texts for numbers and times, and changes of the page. */

export const $ = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat('en');
export const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const day = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

export const plural = (n, word) => `${number.format(n)} ${word}${n === 1 ? '' : 's'}`;
export const short = (n) => (n < 100 ? n.toFixed(1) : number.format(Math.round(n)));
/** Folds a name for case-insensitive search. */
export const fold = (text) => text.normalize('NFKC').toLowerCase();

let skew_ms = 0;

/** Sets how far the daemon's clock is ahead of this one; less than two seconds counts as jitter. */
export function setSkew(ms) {
  skew_ms = Math.abs(ms) > 2000 ? ms : 0;
}

/** The daemon's clock, in milliseconds since the epoch. */
export const now_ms = () => Date.now() + skew_ms;

/** A duration in its largest unit. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const [size, unit] = [[86_400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']].find(([size]) => seconds >= size) ?? [1, 's'];
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** A time of day, with the date if it is not today. */
export function instant(ms) {
  const today = new Date(ms).toDateString() === new Date().toDateString();
  return (today ? clock : day).format(ms);
}

/** Changes the page only where the text differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function make(tag, className = '', text = '') {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}
