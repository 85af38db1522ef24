/** The users as cards or as a table. Only visible rows are in the page, so 100,000 users cost no more than 100. */

import { $, make, now_ms, setAttribute, setText, span, instant, plural, statusText } from './tools.js';

/** Height of a row with the gap below it, of cards and of the table, and minimum width of a card with the gap next to it. */
const ROW_PX = { cards: 44, table: 36 }, CELL_PX = 184, GAP_PX = 8;
/** Rows drawn above and below the visible ones. */
const SPARE = 3;
/** Maximum height that browsers can lay out; users further down are found by name. */
const MOST_PX = 15_000_000;
/** How long a user who went online is marked. */
const NEW_MS = 2000;

export class Grid {
  #roster;
  #open;
  #status;
  #box = $('users');
  #sheet = $('sheet');
  #head = $('head');
  #rows = new Map();  // row number -> its element
  #columns = 1;
  #height = 0;
  #active = -1;       // the cell selected with the keyboard
  #pointed = false;   // the pointer is on the list
  #due = false;
  #view = 'cards';
  /** The user whose details are open. */
  opened = null;

  /**
   * @param {import('./roster.js').Roster} roster
   * @param {(user: string, byKey: boolean) => void} open
   * @param {(user: string) => unknown} status the status of a user
   */
  constructor(roster, open, status) {
    [this.#roster, this.#open, this.#status] = [roster, open, status];
    this.#box.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#box.addEventListener('keydown', (event) => this.#key(event));
    this.#box.addEventListener('click', (event) => this.#click(event));
    this.#box.addEventListener('blur', ({ relatedTarget }) => { if (!$('details').contains(relatedTarget)) this.#choose(-1); });
    // A finger leaves no pointer behind.
    for (const type of ['pointerenter', 'pointermove']) this.#box.addEventListener(type, ({ pointerType }) => this.#point(pointerType !== 'touch'));
    this.#box.addEventListener('pointerleave', () => this.#point(false));
    new ResizeObserver(() => this.draw()).observe(this.#box);
  }

  /** The visible names. */
  get inSight() {
    return [...this.#sheet.querySelectorAll('.user:not([hidden])')].map((cell) => cell.dataset.user).filter(Boolean);
  }

  /** Whether the list is held only because the pointer is on it. */
  get pointed() { return this.#pointed && !this.#away; }

  focus() { this.#box.focus({ preventScroll: true }); }

  /** @param {'cards' | 'table'} view */
  show(view) {
    if (view === this.#view) return;
    this.#view = view;
    this.#box.classList.toggle('table', view === 'table');
    this.#head.hidden = view !== 'table';
    this.#clear();
    this.release();
  }

  /** Scrolls to the beginning and follows changes again. */
  release() {
    this.#box.scrollTop = 0;
    this.#active = -1;
    this.#roster.hold(false);
    this.#roster.pick(0);
    this.#hold();
    this.draw();
  }

  #scrolled() {
    this.#hold();
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => { this.#due = false; this.draw(); });
  }

  #point(pointed) {
    if (pointed === this.#pointed && (!pointed || this.#roster.held)) return;
    this.#pointed = pointed;
    this.#hold();
  }

  /** Whether the reader has left the beginning of the list. */
  get #away() { return this.#active >= 0 || this.#box.scrollTop > this.#row / 2; }

  #hold() {
    const before = this.#roster.held;
    this.#roster.hold(this.#away || (this.#pointed && this.#roster.shown.length > 0));
    if (Boolean(before) === Boolean(this.#roster.held)) return;
    if (before) this.#roster.pick();
    this.#box.dispatchEvent(new Event('held'));
  }

  get #row() { return ROW_PX[this.#view]; }

  #clear() {
    this.#rows.clear();
    this.#sheet.replaceChildren();
  }

  /** Draws the visible rows. */
  draw() {
    const { shown } = this.#roster, row = this.#row, head = this.#head.offsetHeight;
    const columns = this.#view === 'table' ? 1 : Math.max(1, Math.floor((this.#sheet.clientWidth + GAP_PX) / CELL_PX));
    if (columns !== this.#columns) this.#clear();
    this.#columns = columns;
    const rows = Math.ceil(shown.length / columns), height = Math.min(rows * row, MOST_PX);
    if (this.#height !== height) this.#sheet.style.height = `${this.#height = height}px`;
    setAttribute(this.#box, 'aria-rowcount', rows + (head ? 1 : 0));
    setAttribute(this.#box, 'aria-colcount', head ? $('columns').childElementCount : columns);
    const { scrollTop, clientHeight } = this.#box;
    const first = Math.max(0, Math.floor(scrollTop / row) - SPARE);
    const end = Math.min(rows, MOST_PX / row, Math.ceil((scrollTop + clientHeight) / row) + SPARE);
    this.#place(first, end);
    for (const [at, element] of this.#rows) this.#fill(at, element);
    setAttribute(this.#box, 'aria-activedescendant', this.#active >= 0 ? `cell-${this.#active}` : '');
    for (const column of $('columns').children) setAttribute(column, 'aria-sort', this.#sorted(column.dataset.by));
  }

  /** The table's third column is an age: users who came last are the youngest. */
  #sorted(by) {
    if (by !== this.#roster.by) return 'none';
    return this.#roster.down === (by === 'since') ? 'ascending' : 'descending';
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
      element.style.transform = `translateY(${row * this.#row}px)`;
      setAttribute(this.#view === 'table' ? element.firstChild : element, 'aria-rowindex', row + 1 + (this.#view === 'table' ? 1 : 0));
      this.#rows.set(row, element);
    }
    for (const element of free) element.remove();
  }

  /** A row of cards is a row; in the table, each user is one. */
  #makeRow() {
    const row = make('div', 'users-row'), table = this.#view === 'table';
    row.setAttribute('role', table ? 'presentation' : 'row');
    row.style.gridTemplateColumns = `repeat(${this.#columns}, minmax(0, 1fr))`;
    for (let i = 0; i < this.#columns; i++) {
      const cell = make('div', 'user');
      cell.setAttribute('role', table ? 'row' : 'gridcell');
      cell.append(make('bdi', 'name'), make('span', 'soft status'), make('span', 'soft sessions'), make('span', 'soft age'));
      if (table) for (const part of cell.children) part.setAttribute('role', 'gridcell');
      else cell.setAttribute('aria-colindex', i + 1);
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
    const [name, status, sessions, age] = cell.children, gone = one.gone !== null, table = this.#view === 'table';
    setAttribute(cell, 'id', `cell-${index}`);
    if (cell.dataset.user !== one.user) cell.dataset.user = name.title = one.user;
    setText(name, one.user);
    const words = statusText(this.#status(one.user));
    setText(status, table ? words : '');
    setAttribute(status, 'title', words);
    setText(sessions, gone ? '' : table ? String(one.sessions) : one.sessions > 1 ? `×${one.sessions}` : '');
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
    if (event.target !== this.#box) return; // a column's button
    if (event.ctrlKey && !['Home', 'End'].includes(event.key)) return;
    const last = this.#roster.shown.length - 1, page = Math.max(1, Math.floor(this.#box.clientHeight / this.#row) - 1);
    const inRow = Math.max(this.#active, 0) % this.#columns;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.#columns, ArrowUp: -this.#columns,
      PageDown: page * this.#columns, PageUp: -page * this.#columns,
      Home: event.ctrlKey || this.#columns === 1 ? -Infinity : -inRow, End: event.ctrlKey || this.#columns === 1 ? Infinity : this.#columns - 1 - inRow,
    };
    if (event.key in steps && last >= 0) this.#move(steps[event.key], last);
    else if ((event.key === 'Enter' || event.key === ' ') && this.#active >= 0) this.#open(this.#roster.shown[this.#active].user, true);
    else return;
    event.preventDefault();
  }

  #move(step, last) {
    if (this.#active < 0) { // the first key starts at the user whose details are open, else at the first visible user
      const opened = this.#roster.shown.findIndex(({ user }) => user === this.opened);
      const inSight = Math.ceil(this.#box.scrollTop / this.#row) * this.#columns;
      return this.#choose(Number.isFinite(step) ? Math.min(Math.max(opened, inSight), last) : step > 0 ? last : 0);
    }
    this.#choose(Math.min(Math.max(this.#active + step, 0), last));
  }

  #choose(index) {
    this.#active = index;
    if (index >= 0) this.#reveal(Math.floor(index / this.#columns) * this.#row);
    this.#hold();
    this.draw();
  }

  /** The table's head covers the top of the list. */
  #reveal(top) {
    const { scrollTop, clientHeight } = this.#box, bottom = top + this.#row + this.#head.offsetHeight;
    if (top < scrollTop) this.#box.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.#box.scrollTop = bottom - clientHeight + GAP_PX;
  }
}
