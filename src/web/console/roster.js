/** Who is online, in the order in which they came, and which of them are to be shown. */

import { fold, now_ms } from './tools.js';

/** How long one who left is still seen, fading. */
export const LEFT_MS = 700;
/** Who came within so long is listed as new. */
const RECENT_MS = 60_000;
/** So many of those who left are remembered. */
const LEFT_MOST = 10_000;

/**
 * @typedef {{ user: string, since: number, sessions: number, came: number, gone: number | null, lastSeen?: number | null, folded?: string }} One
 * `came` and `gone` are on the page's own clock (performance.now), `since` and `lastSeen` on the daemon's.
 */
export class Roster {
  /** @type {Map<string, One>} */
  users = new Map();
  /** Those who left while the page was open, the latest last. @type {Map<string, One>} */
  left = new Map();
  /** What is to be seen, the newest first, and how many of it are no more than fading. @type {One[]} */
  shown = [];
  fading = 0;
  /** While somebody reads further down, the list stays as it is: who came and left since then. */
  held = null;
  /** What was typed, folded; and which users: `online`, `recent` or `left`. */
  needle = '';
  kind = 'online';
  #order = []; // by `since`; those who left are taken out when the list is picked
  #sorted = true;

  /** Takes a snapshot of everybody in place of what was known. */
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

  /** Takes in what the daemon told, in its order. */
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

  /** What is known now of one who is shown. */
  current(one) { return this.users.get(one.user) ?? one; }

  /** Whether nothing may move under the reader's eyes. */
  hold(held) {
    if (!held) this.held = null;
    else this.held ??= { came: 0, left: 0 };
  }

  /** Picks what is to be shown; nothing while it is held. */
  pick() {
    if (this.held) return;
    const now = performance.now();
    const stays = (one) => one.gone === null || (now - one.gone < LEFT_MS && !this.users.has(one.user));
    this.#order = this.#order.filter(stays);
    if (!this.#sorted) this.#order.sort((a, b) => a.since - b.since); // mostly sorted already, which makes it one pass
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

  /** How many of those shown are there now. */
  get matches() { return this.shown.length - this.fading; }
}
