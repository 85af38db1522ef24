/** The users online, in the order in which they went online, and which of them to show. */

import { fold, now_ms } from './tools.js';

/** How long a user who went offline stays visible, fading. */
export const LEFT_MS = 700;
/** How long a user counts as new. */
const RECENT_MS = 60_000;
/** Maximum number of offline users to remember. */
const LEFT_MOST = 10_000;

/**
 * @typedef {{ user: string, since: number, sessions: number, came: number, gone: number | null, lastSeen?: number | null, folded?: string }} One
 * `came` and `gone` are on the page's own clock (performance.now), `since` and `lastSeen` on the daemon's.
 */
export class Roster {
  /** @type {Map<string, One>} */
  users = new Map();
  /** Users who went offline while the page was open, the latest last. @type {Map<string, One>} */
  left = new Map();
  /** The users to show, newest first, and how many of them are only fading. @type {One[]} */
  shown = [];
  fading = 0;
  /** While the reader has scrolled down, the list is held: the numbers of users who came and left since then. */
  held = null;
  /** The search text, folded, and the kind of users: `online`, `recent` or `left`. */
  needle = '';
  kind = 'online';
  #order = []; // by `since`; pick() removes users who left
  #sorted = true;

  /** Replaces everything with a snapshot of everybody. */
  replace(objects) {
    const before = this.users;
    this.users = new Map();
    for (const { user, state, since_ms, sessions } of objects) {
      if (state !== 'online') continue;
      this.users.set(user, { user, since: since_ms, sessions, came: -Infinity, gone: null });
      this.left.delete(user);
    }
    for (const one of before.values()) if (!this.users.has(one.user)) this.#leave(one, null);
    this.#order = [...this.users.values()];
    this.#sorted = false;
  }

  /** Applies a transition; transitions must come in order. */
  apply({ user, state, since_ms, last_seen_ms }) {
    const before = this.users.get(user);
    this.users.delete(user);
    if (before) this.#leave(before, last_seen_ms ?? null);
    if (this.held) this.held[state === 'online' ? 'came' : 'left'] += 1;
    if (state !== 'online') return;
    const one = { user, since: since_ms, sessions: 1, came: performance.now(), gone: null };
    this.users.set(user, one);
    this.left.delete(user);
    if (one.since < this.#order.at(-1)?.since) this.#sorted = false;
    this.#order.push(one);
  }

  #leave(one, lastSeen) {
    [one.gone, one.lastSeen] = [performance.now(), lastSeen];
    this.left.delete(one.user);
    this.left.set(one.user, one);
    if (this.left.size > LEFT_MOST) this.left.delete(this.left.keys().next().value);
  }

  /** The current record of a user who is shown. */
  current(one) { return this.users.get(one.user) ?? one; }

  /** Holds or releases the list, so that nothing moves while the reader reads. */
  hold(held) {
    if (!held) this.held = null;
    else this.held ??= { came: 0, left: 0 };
  }

  /** Picks the users to show; does nothing while the list is held. */
  pick() {
    if (this.held) return;
    const now = performance.now();
    const stays = (one) => one.gone === null || (now - one.gone < LEFT_MS && !this.users.has(one.user));
    this.#order = this.#order.filter(stays);
    if (!this.#sorted) this.#order.sort((a, b) => a.since - b.since); // mostly sorted already, so this is one pass
    this.#sorted = true;
    this.#show(this.kind === 'left' ? [...this.left.values()] : this.#order);
  }

  #show(all) {
    const { kind, needle } = this;
    const oldest = kind === 'recent' ? now_ms() - RECENT_MS : -Infinity;
    this.shown = [];
    this.fading = 0;
    for (let i = all.length - 1; i >= 0 && all[i].since >= oldest; i--) {
      const one = all[i];
      if (needle && !(one.folded ??= fold(one.user)).includes(needle)) continue;
      this.shown.push(one);
      if (one.gone !== null && kind !== 'left') this.fading += 1;
    }
  }

  /** The number of users shown, without the fading ones. */
  get matches() { return this.shown.length - this.fading; }
}
