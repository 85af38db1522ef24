/** Shared helpers of the console: texts for numbers and times, and changes of the page. */

export const $ = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat('en');
export const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const day = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

export const plural = (n, word) => `${number.format(n)} ${word}${n === 1 ? '' : 's'}`;
export const short = (n) => (n < 100 ? n.toFixed(1) : number.format(Math.round(n)));

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

/** A duration in seconds up to two minutes, then in its largest unit. */
export const exact = (ms) => (ms < 120_000 ? `${Math.floor(ms / 1000)} s` : span(ms));

/** A time of day, with the date if it is not today. */
export function instant(ms) {
  const today = new Date(ms).toDateString() === new Date().toDateString();
  return (today ? clock : day).format(ms);
}

/** A status in one line: its text, if it has one, else its JSON. */
export function statusText(status) {
  if (status === undefined || status === null) return '';
  if (typeof status === 'string') return status;
  return typeof status.text === 'string' ? status.text : JSON.stringify(status);
}

/** What this tab remembers. A browser may forbid it; then it lasts as long as the page. */
const memory = new Map();
export const remembered = {
  get(name) {
    try { return sessionStorage.getItem(`keybeat.${name}`) ?? memory.get(name) ?? null; } catch { return memory.get(name) ?? null; }
  },
  set(name, value) {
    memory.delete(name);
    if (value !== null) memory.set(name, value);
    try {
      if (value === null) sessionStorage.removeItem(`keybeat.${name}`);
      else sessionStorage.setItem(`keybeat.${name}`, value);
    } catch { /* see above */ }
  },
};

/** Shows a text, or greyed that it is unknown. */
export function setKnown(element, text) {
  element.classList.toggle('unknown', text === null);
  setText(element, text ?? 'unknown');
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
