/** Small charts of the last two minutes, or less if less is known, with labelled axes. */

import { $, make, number, setAttribute, setText, short, span } from './tools.js';

const SECONDS = 120, LEAST_SECONDS = 15, HEIGHT = 40;
const SVG = 'http://www.w3.org/2000/svg';

const thisSecond = () => Math.floor(performance.now() / 1000);

export class Chart {
  #box;
  #svg;
  #lines;
  #area;
  #labels;
  #options;
  #second = thisSecond();
  /** One list of values per second, the current second last; null where nothing is known. */
  samples = [];
  /** Whether seconds without a transition are known to have none. */
  known = true;

  /**
   * @param {string} id of the element that the chart fills
   * @param {{ title: string, series?: string[], fromZero?: boolean, log?: boolean, counts?: boolean }} options `counts`: each
   *   second starts at zero and add() increases it; else the value of a second is the last one that was set. `log`: each
   *   step of the same height is the same factor
   */
  constructor(id, options) {
    this.#options = { series: [''], ...options };
    this.#box = $(id);
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg = svg;
    const path = (name) => {
      const one = document.createElementNS(SVG, 'path');
      one.setAttribute('class', name);
      svg.append(one);
      return one;
    };
    this.#area = path('area');
    this.#lines = this.#options.series.map((_, i) => path(`line line-${i}`));
    this.#labels = ['top', 'bottom', 'then', 'now'].map((name) => make('span', `label ${name}`));
    this.#labels[3].textContent = 'now';
    const drawing = make('div', 'drawing');
    drawing.append(svg, ...this.#labels);
    this.#box.setAttribute('role', 'img');
    this.#box.append(drawing);
  }

  /** Advances to the current second; seconds without a sample are unknown. */
  roll() {
    const second = thisSecond(), steps = Math.min(second - this.#second, SECONDS + 1);
    this.#second = second;
    if (!this.samples.length) return;
    for (let i = 0; i < steps; i++) this.samples.push(this.#options.counts && this.known ? [0] : null);
    this.samples = this.samples.slice(-SECONDS - 2);
  }

  /** Starts counting: from now on the values are known. */
  begin() { if (!this.samples.length) this.samples.push([0]); }

  add(n) {
    this.roll();
    const last = this.samples.at(-1);
    if (last) last[0] += n;
  }

  set(values) {
    this.roll();
    if (this.samples.length) this.samples[this.samples.length - 1] = values;
    else this.samples.push(values);
  }

  /** The values of complete seconds, the latest last. */
  get whole() { return this.#options.counts ? this.samples.slice(0, -1) : this.samples.slice(-SECONDS - 1); }

  draw() {
    const whole = this.whole, known = whole.filter(Boolean).flat().filter(Number.isFinite);
    this.#box.classList.toggle('empty', known.length < 2);
    if (known.length < 2) return setAttribute(this.#box, 'aria-label', `${this.#options.title}: no data yet`);
    const [low, high] = this.#range(Math.min(...known), Math.max(...known));
    const width = Math.max(LEAST_SECONDS, whole.length - 1), from = width - whole.length + 1;
    setAttribute(this.#svg, 'viewBox', `0 0 ${width} ${HEIGHT}`);
    setText(this.#labels[2], `${span(width * 1000)} ago`);
    const scale = this.#options.log ? (value) => Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value) => (value - low) / (high - low);
    const point = (value, i) => `${from + i} ${(HEIGHT - 1 - scale(value) * (HEIGHT - 2)).toFixed(2)}`;
    this.#lines.forEach((line, n) => {
      const d = whole.map((values, i) => {
        if (!Number.isFinite(values?.[n])) return '';
        return (Number.isFinite(whole[i - 1]?.[n]) ? 'L' : 'M') + point(values[n], i);
      });
      setAttribute(line, 'd', d.join(''));
    });
    setAttribute(this.#area, 'd', this.#areaBelow(whole, from, point));
    setText(this.#labels[0], this.#words(high));
    setText(this.#labels[1], this.#words(low));
    this.#describe(whole, known);
  }

  #areaBelow(whole, from, point) {
    let d = '', open = false;
    whole.forEach((values, i) => {
      const there = Number.isFinite(values?.[0]);
      if (there) d += (open ? 'L' : `M${from + i} ${HEIGHT}L`) + point(values[0], i);
      if (open && (!there || i === whole.length - 1)) d += `L${from + i - (there ? 0 : 1)} ${HEIGHT}Z`;
      open = there;
    });
    return d;
  }

  #range(low, high) {
    if (this.#options.log) {
      const least = 10 ** Math.floor(Math.log10(Math.max(low, 0.1)));
      return [least, Math.max(10 * least, 10 ** Math.ceil(Math.log10(Math.max(high, 0.1))))];
    }
    if (this.#options.fromZero) return [0, ceiling(high)];
    const more = Math.max(1, Math.ceil((high - low) * 0.1));
    return [Math.max(0, Math.floor(low - more)), Math.ceil(high + more)];
  }

  #words(value) { return Number.isInteger(value) ? number.format(value) : short(value); }

  #describe(whole, known) {
    const { title, series } = this.#options;
    const last = (whole.findLast(Boolean) ?? []).map((value, i) => `${series[i]} ${this.#words(value ?? 0)}`.trim()).join(', ');
    const range = `from ${this.#words(Math.min(...known))} to ${this.#words(Math.max(...known))} in the last 2 minutes`;
    setAttribute(this.#box, 'aria-label', `${title}: ${last}; ${range}`);
  }
}

/** The smallest of 1, 2, 5, 10, 20, … that is at least `value`. */
function ceiling(value) {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return size * [1, 2, 5, 10].find((step) => step * size >= value);
}
