/** The users as a grid. Only visible rows are in the page, so 100,000 users cost no more than 100. */

import { $, make, now_ms, setAttribute, setText, span, instant, plural } from './tools.js';

/** Height of a row with the gap below it, and minimum width of a cell with the gap next to it. */
const ROW_PX = 44, CELL_PX = 184, GAP_PX = 8;
/** Rows drawn above and below the visible ones. */
const SPARE = 3;
/** Maximum height that browsers can lay out; users further down are found by name. */
const MOST_PX = 15_000_000;
/** How long a user who went online is marked. */
const NEW_MS = 2000;

export class Grid {
  #roster;
  #open;
  #box = $('users');
  #sheet = $('sheet');
  #rows = new Map();  // row number -> its element
  #columns = 1;
  #height = 0;
  #active = -1;       // the cell selected with the keyboard
  #due = false;
  /** The user whose details are open. */
  opened = null;

  /** @param {import('./roster.js').Roster} roster @param {(user: string, byKey: boolean) => void} open */
  constructor(roster, open) {
    this.#roster = roster;
    this.#open = open;
    this.#box.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#box.addEventListener('keydown', (event) => this.#key(event));
    this.#box.addEventListener('click', (event) => this.#click(event));
    this.#box.addEventListener('blur', ({ relatedTarget }) => { if (!$('details').contains(relatedTarget)) this.#choose(-1); });
    new ResizeObserver(() => this.draw()).observe(this.#box);
  }

  /** The visible names. */
  get inSight() {
    return [...this.#rows.values()].flatMap(({ children }) => [...children].map((cell) => cell.dataset.user).filter(Boolean));
  }

  focus() { this.#box.focus({ preventScroll: true }); }

  /** Scrolls to the newest user and follows changes again. */
  release() {
    this.#box.scrollTop = 0;
    this.#choose(-1);
  }

  #scrolled() {
    this.#hold();
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => { this.#due = false; this.draw(); });
  }

  #hold() {
    const before = this.#roster.held;
    this.#roster.hold(this.#active >= 0 || this.#box.scrollTop > ROW_PX / 2);
    if (before && !this.#roster.held) this.#roster.pick();
  }

  /** Draws the visible rows. */
  draw() {
    const { shown } = this.#roster;
    const columns = Math.max(1, Math.floor((this.#sheet.clientWidth + GAP_PX) / CELL_PX));
    if (columns !== this.#columns) this.#rows.clear(), this.#sheet.replaceChildren();
    this.#columns = columns;
    const rows = Math.ceil(shown.length / columns), height = Math.min(rows * ROW_PX, MOST_PX);
    if (this.#height !== height) this.#sheet.style.height = `${this.#height = height}px`;
    setAttribute(this.#box, 'aria-rowcount', rows);
    setAttribute(this.#box, 'aria-colcount', columns);
    const { scrollTop, clientHeight } = this.#box;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - SPARE);
    const end = Math.min(rows, MOST_PX / ROW_PX, Math.ceil((scrollTop + clientHeight) / ROW_PX) + SPARE);
    this.#place(first, end);
    for (const [row, element] of this.#rows) this.#fill(row, element);
    const active = this.#active >= 0 ? `cell-${this.#active}` : '';
    setAttribute(this.#box, 'aria-activedescendant', active);
  }

  /** Reuses the elements of rows that are no longer visible. */
  #place(first, end) {
    const free = [];
    for (const [row, element] of this.#rows) {
      if (row >= first && row < end) continue;
      this.#rows.delete(row);
      free.push(element);
    }
    for (let row = first; row < end; row++) {
      if (this.#rows.has(row)) continue;
      const element = free.pop() ?? this.#makeRow();
      element.style.transform = `translateY(${row * ROW_PX}px)`;
      setAttribute(element, 'aria-rowindex', row + 1);
      this.#rows.set(row, element);
    }
    for (const element of free) element.remove();
  }

  #makeRow() {
    const row = make('div', 'users-row');
    row.setAttribute('role', 'row');
    row.style.gridTemplateColumns = `repeat(${this.#columns}, minmax(0, 1fr))`;
    for (let i = 0; i < this.#columns; i++) {
      const cell = make('div', 'user');
      cell.setAttribute('role', 'gridcell');
      cell.setAttribute('aria-colindex', i + 1);
      cell.append(make('bdi', 'name'), make('span', 'soft'), make('span', 'soft'));
      row.append(cell);
    }
    this.#sheet.append(row);
    return row;
  }

  #fill(row, { children }) {
    for (let column = 0; column < this.#columns; column++) {
      const index = row * this.#columns + column, one = this.#roster.shown[index];
      this.#fillCell(children[column], index, one && this.#roster.current(one));
    }
  }

  #fillCell(cell, index, one) {
    cell.hidden = !one;
    if (!one) return cell.removeAttribute('data-user');
    const [name, sessions, age] = cell.children, gone = one.gone !== null;
    setAttribute(cell, 'id', `cell-${index}`);
    if (cell.dataset.user !== one.user) cell.dataset.user = name.title = one.user;
    setText(name, one.user);
    setText(sessions, !gone && one.sessions > 1 ? `×${one.sessions}` : '');
    if (sessions.textContent) setAttribute(sessions, 'title', plural(one.sessions, 'session'));
    setText(age, this.#age(one));
    const fades = gone && this.#roster.kind !== 'left' && !this.#roster.held;
    const isNew = performance.now() - one.came < NEW_MS;
    const marks = [gone && 'left', fades && 'fades', !gone && isNew && 'new', index === this.#active && 'active', one.user === this.opened && 'opened'];
    const className = ['user', ...marks].filter(Boolean).join(' ');
    if (cell.className !== className) cell.className = className;
    setAttribute(cell, 'aria-selected', one.user === this.opened);
  }

  #age(one) {
    if (document.body.classList.contains('stale')) return ''; // stale data does not age
    if (one.gone === null) return span(now_ms() - one.since);
    return this.#roster.kind === 'left' && one.lastSeen ? instant(one.lastSeen) : 'left';
  }

  #click({ target }) {
    const user = target.closest('.user')?.dataset.user;
    if (user) this.#open(user, false);
  }

  #key(event) {
    if (event.ctrlKey && !['Home', 'End'].includes(event.key)) return;
    const last = this.#roster.shown.length - 1, page = Math.max(1, Math.floor(this.#box.clientHeight / ROW_PX) - 1);
    const inRow = Math.max(this.#active, 0) % this.#columns;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.#columns, ArrowUp: -this.#columns,
      PageDown: page * this.#columns, PageUp: -page * this.#columns,
      Home: event.ctrlKey ? -Infinity : -inRow, End: event.ctrlKey ? Infinity : this.#columns - 1 - inRow,
    };
    if (event.key in steps && last >= 0) this.#move(steps[event.key], last);
    else if ((event.key === 'Enter' || event.key === ' ') && this.#active >= 0) this.#open(this.#roster.shown[this.#active].user, true);
    else return;
    event.preventDefault();
  }

  #move(step, last) {
    if (this.#active < 0) { // the first key starts at the user whose details are open, else at the first visible user
      const opened = this.#roster.shown.findIndex(({ user }) => user === this.opened);
      const inSight = Math.ceil(this.#box.scrollTop / ROW_PX) * this.#columns;
      return this.#choose(Number.isFinite(step) ? Math.min(Math.max(opened, inSight), last) : step > 0 ? last : 0);
    }
    this.#choose(Math.min(Math.max(this.#active + step, 0), last));
  }

  #choose(index) {
    this.#active = index;
    if (index >= 0) this.#reveal(Math.floor(index / this.#columns) * ROW_PX);
    this.#hold();
    this.draw();
  }

  #reveal(top) {
    const { scrollTop, clientHeight } = this.#box;
    if (top < scrollTop) this.#box.scrollTop = top;
    else if (top + ROW_PX > scrollTop + clientHeight) this.#box.scrollTop = top + ROW_PX - clientHeight + GAP_PX;
  }
}
