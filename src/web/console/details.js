/** The details of one user: state, status, each session with its key and TTL, and the transitions that this page has received. */

import { confirmEnd, copy, curl, userPath } from './actions.js';
import { $, clock, exact, instant, make, now_ms, plural, setKnown, setText, span, statusText } from './tools.js';

const CHANGES_MOST = 6;
/** Rows of the list of sessions; a user may have thousands. */
const SESSIONS_MOST = 100;

export class Details {
  #roster;
  #connection;
  #feed;
  #grid = null;
  #byKey = false;
  /** The user whose details are open. */
  user = null;
  #object = null;     // the daemon's last answer
  #answered = 0;      // when it came
  #asking = null;     // the user of the question under way
  #note = '';

  /**
   * @param {import('./roster.js').Roster} roster
   * @param {import('./connection.js').Connection} connection
   * @param {(user: string) => object[]} feed returns the transitions of a user, the latest first
   */
  constructor(roster, connection, feed) {
    [this.#roster, this.#connection, this.#feed] = [roster, connection, feed];
    $('details-close').addEventListener('click', () => this.close());
    $('details-curl').addEventListener('click', ({ target }) => this.#copy(target));
    $('details-end').addEventListener('click', () => this.#end(null));
  }

  attach(grid) { this.#grid = grid; }

  open(user, byKey = false) {
    if (this.user === user && !byKey) return this.close();
    [this.user, this.#object, this.#byKey, this.#note] = [user, null, byKey, ''];
    $('details').hidden = false;
    $('details-code').hidden = true;
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
    if (user === null || this.#asking === user) return;
    this.#asking = user;
    const answer = await this.#ask(user).catch(() => null);
    if (this.#asking === user) this.#asking = null;
    if (user !== this.user) return;
    this.#object = answer?.object ?? null;
    this.#answered = performance.now();
    if (answer?.why) this.#note = answer.why;
    else if (this.#note.startsWith('Sessions are unknown')) this.#note = '';
    this.draw();
  }

  async #ask(user) {
    const path = userPath(user, '?sessions=true');
    const answer = path ? await this.#connection.ask('GET', path) : await this.#connection.ask('POST', 'v1/users/query', { users: [user] });
    const body = await answer.json();
    if (!answer.ok) return { why: `Sessions are unknown: ${body.error?.message ?? answer.status}` };
    return { object: path ? body : body.users[0] };
  }

  #command() {
    const path = userPath(this.user, '?sessions=true'), token = Boolean(this.#connection.token);
    return path ? curl('GET', path, token) : curl('POST', 'v1/users/query', token, { users: [this.user] });
  }

  /** Also shows the command: the reader sees what was copied, and can select it where the page may not copy. */
  #copy(button) {
    const code = $('details-code');
    setText(code, this.#command());
    code.hidden = false;
    copy(button, code.textContent, code);
  }

  /** Ends one session, or all of them, if the reader confirms it. */
  async #end(one) {
    const { user } = this, list = this.#object?.sessions_list ?? [];
    const session = one?.session ?? null, keys = (one ? [one] : list).map(({ key }) => key);
    const path = userPath(user, session === null ? '' : `?session=${encodeURIComponent(session)}`);
    if (!path) return this.#say('No path can contain this name. Delete its keys in Redis.');
    const last = list.every(({ key }) => keys.includes(key));
    if (!await confirmEnd(user, session, keys, last, curl('DELETE', path, Boolean(this.#connection.token)))) return;
    const what = session === null ? 'The sessions' : `The session ${session}`;
    try {
      const answer = await this.#connection.ask('DELETE', path);
      const why = answer.ok ? null : (await answer.json()).error?.message ?? String(answer.status);
      this.#say(why === null ? `${what} ended` : `${what} did not end: ${why}`);
    } catch {
      this.#say(`It is unknown whether ${what.toLowerCase()} ended: the daemon does not answer`);
    }
    this.refresh();
  }

  #say(note) {
    this.#note = note;
    this.draw();
  }

  draw() {
    if (this.user === null) return;
    const one = this.#roster.users.get(this.user), left = this.#roster.left.get(this.user), online = one !== undefined;
    setText($('details-name'), this.user);
    $('details-state').className = online ? 'online' : 'offline';
    setText($('details-word'), online ? 'online' : 'offline');
    const list = online && this.#object?.state === 'online' ? this.#object.sessions_list ?? [] : [];
    const sessions = list.length || one?.sessions;
    setText($('details-sessions'), online ? plural(sessions, 'session') : 'none');
    const words = statusText(this.#connection.status(this.user) ?? this.#object?.status);
    $('details-status').parentElement.hidden = !words;
    setText($('details-status'), words);
    $('details-since').parentElement.hidden = !online;
    if (online) setText($('details-since'), `${instant(one.since)} (${span(now_ms() - one.since)})`);
    setText($('details-seen'), this.#lastSeen(online, left));
    $('details-end').hidden = !list.length;
    setText($('details-note'), this.#note);
    this.#sessions(list);
    this.#changes();
  }

  #lastSeen(online, left) {
    if (online) return 'now';
    const seen = left?.lastSeen ?? this.#object?.last_seen_ms;
    return seen ? `${instant(seen)} (${span(now_ms() - seen)} ago)` : 'not since the daemon started';
  }

  /** The rows stay while the sessions are the same, so that a button keeps the focus. */
  #sessions(list) {
    const table = $('details-list'), body = table.tBodies[0], shown = list.slice(0, SESSIONS_MOST);
    table.hidden = !list.length;
    const names = JSON.stringify(shown.map(({ key }) => key));
    if (body.dataset.names !== names) {
      body.dataset.names = names;
      body.replaceChildren(...shown.map((one) => this.#row(one, list.length)));
    }
    shown.forEach((one, i) => setKnown(body.rows[i].cells[1], this.#left(one)));
    setText($('details-more'), list.length > shown.length ? `and ${plural(list.length - shown.length, 'session')} more` : '');
  }

  #row(one, count) {
    const row = make('tr'), head = make('th'), cell = make('td', 'right');
    head.scope = 'row';
    head.append(make('bdi', 'name', one.session ?? 'no name'), make('code', 'soft key', one.key));
    if (one.session !== null || count === 1) {
      const button = make('button', '', 'End');
      button.type = 'button';
      button.setAttribute('aria-label', `End the session ${one.session ?? 'without a name'}`);
      button.addEventListener('click', () => this.#end(one));
      cell.append(button);
    }
    row.append(head, make('td'), cell);
    return row;
  }

  /** The time left of the key's TTL, counted down since the answer. */
  #left({ ttl_left_ms, ttl_ms }) {
    if (!this.#connection.live) return null;
    if (ttl_left_ms === null) return 'no TTL';
    if (ttl_left_ms === 0) return 'not in Redis';
    const left = Math.max(0, ttl_left_ms - (performance.now() - this.#answered));
    return `${exact(left)}${ttl_ms ? ` of ${exact(ttl_ms)}` : ''}`;
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
