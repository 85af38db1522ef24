/** The details of one user: state, sessions, since, last seen, and the transitions that this page has received. */

import { $, clock, instant, make, now_ms, plural, setText, span } from './tools.js';

const CHANGES_MOST = 6;

export class Details {
  #roster;
  #ask;
  #feed;
  #grid = null;
  #byKey = false;
  /** The user whose details are open. */
  user = null;
  #object = null;

  /**
   * @param {import('./roster.js').Roster} roster
   * @param {(user: string) => Promise<object | null>} ask returns the daemon's user object
   * @param {(user: string) => object[]} feed returns the transitions of a user, the latest first
   */
  constructor(roster, ask, feed) {
    [this.#roster, this.#ask, this.#feed] = [roster, ask, feed];
    $('details-close').addEventListener('click', () => this.close());
  }

  attach(grid) { this.#grid = grid; }

  open(user, byKey = false) {
    if (this.user === user && !byKey) return this.close();
    [this.user, this.#object, this.#byKey] = [user, null, byKey];
    $('details').hidden = false;
    this.#mark();
    this.draw();
    if (byKey) $('details-close').focus();
    this.refresh();
  }

  close() {
    if (this.user === null) return false;
    const inside = $('details').contains(document.activeElement);
    this.user = null;
    $('details').hidden = true;
    this.#mark();
    if (inside && this.#byKey) this.#grid.focus();
    return true;
  }

  #mark() {
    this.#grid.opened = this.user;
    this.#grid.draw();
  }

  /** Queries the daemon: a second session is no transition, and the page does not know users who left before it was opened. */
  async refresh() {
    const { user } = this;
    if (user === null) return;
    const object = await this.#ask(user).catch(() => null);
    if (object && user === this.user) this.#object = object;
    this.draw();
  }

  draw() {
    if (this.user === null) return;
    const one = this.#roster.users.get(this.user), left = this.#roster.left.get(this.user);
    setText($('details-name'), this.user);
    const online = one !== undefined;
    $('details-state').className = online ? 'online' : 'offline';
    setText($('details-word'), online ? 'online' : 'offline');
    const sessions = this.#object?.state === 'online' ? this.#object.sessions : one?.sessions;
    setText($('details-sessions'), online ? plural(sessions, 'session') : 'none');
    $('details-since').parentElement.hidden = !online;
    if (online) setText($('details-since'), `${instant(one.since)} (${span(now_ms() - one.since)})`);
    setText($('details-seen'), this.#lastSeen(online, left));
    this.#changes();
  }

  #lastSeen(online, left) {
    if (online) return 'now';
    const seen = left?.lastSeen ?? this.#object?.last_seen_ms;
    return seen ? `${instant(seen)} (${span(now_ms() - seen)} ago)` : 'not since the daemon started';
  }

  #changes() {
    const changes = this.#feed(this.user).slice(0, CHANGES_MOST);
    const lines = changes.map(({ at_ms, state, reason }) => `${clock.format(at_ms)}  ${state}, ${reason}`);
    const list = $('details-changes');
    if (list.dataset.lines === lines.join('\n')) return;
    list.dataset.lines = lines.join('\n');
    list.replaceChildren(...lines.map((line) => make('li', '', line)));
    list.parentElement.hidden = !lines.length;
  }
}
