/** The users online, in the order that the reader chose, and which of them to show. */

import { fold } from './search.js';
import { now_ms } from './tools.js';

/** How long a user who went offline stays visible, fading. */
export const LEFT_MS = 700;
/** How long a user counts as new. */
const RECENT_MS = 60_000;
/** Maximum number of offline users to remember. */
const LEFT_MOST = 10_000;

const folded = (one) => (one.folded ??= fold(one.user));
const compare = (a, b) => (a < b ? -1 : Number(a > b));

/** Ascending orders. The last rule makes each order total, so that equal users do not change places. */
const ORDERS = {
  since: (a, b) => a.since - b.since,
  user: (a, b) => compare(folded(a), folded(b)) || compare(a.user, b.user),
  sessions: (a, b) => a.sessions - b.sessions || compare(a.user, b.user),
};

/** Two sorted lists as one. To sort 100,000 users again and again would take too long. */
function merge(all, some, order) {
  if (!some.length) return all;
  const merged = [];
  let next = 0;
  for (const one of all) {
    while (next < some.length && order(some[next], one) < 0) merged.push(some[next++]);
    merged.push(one);
  }
  return merged.concat(some.slice(next));
}

/**
 * @typedef {{ user: string, since: number, sessions: number, came: number, gone: number | null, lastSeen?: number | null, folded?: string, hit?: boolean, hitBy?: Function }} One
 * `came` and `gone` are on the page's own clock (performance.now), `since` and `lastSeen` on the daemon's.
 */
export class Roster {
  /** @type {Map<string, One>} */
  users = new Map();
  /** Users who went offline while the page was open, the latest last. @type {Map<string, One>} */
  left = new Map();
  /** The users to show, and how many of them are only fading. @type {One[]} */
  shown = [];
  fading = 0;
  /** While the list is held, nothing moves: the numbers of users who came and left since then. */
  held = null;
  /** The check of folded names, or null; and the kind of users: `online`, `recent` or `left`. */
  search = null;
  kind = 'online';
  #order = []; // ascending, if sorted; pick() removes users who left and merges those who came
  #sorted = true;
  #arrivals = [];
  #by = 'since';
  #down = true;

  get by() { return this.#by; }
  get down() { return this.#down; }

  /** @param {'since' | 'user' | 'sessions'} by @param {boolean} down descending */
  sort(by, down) {
    if (by !== this.#by) this.#sorted = false;
    [this.#by, this.#down] = [by, down];
  }

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
    [this.#order, this.#arrivals, this.#sorted] = [[...this.users.values()], [], false];
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
    this.#arrivals.push(one);
  }

  /** A second session is no transition. */
  setSessions(user, sessions) {
    const one = this.users.get(user);
    if (!one || one.sessions === sessions) return;
    one.sessions = sessions;
    if (this.#by === 'sessions') this.#sorted = false;
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

  /** Picks the users to show, and those who left within `left_ms`; does nothing while the list is held. */
  pick(left_ms = LEFT_MS) {
    if (this.held) return;
    const now = performance.now();
    const stays = (one) => one.gone === null || (now - one.gone < left_ms && !this.users.has(one.user));
    const order = ORDERS[this.#by], here = this.#order.filter(stays), arrivals = this.#arrivals.filter(stays).sort(order);
    this.#order = this.#sorted ? merge(here, arrivals, order) : here.concat(arrivals).sort(order);
    [this.#arrivals, this.#sorted] = [[], true];
    if (this.kind !== 'left') return this.#show(this.#order);
    const left = [...this.left.values()];
    this.#show(this.#by === 'since' ? left : left.sort(ORDERS[this.#by]));
  }

  #show(all) {
    const { kind } = this, oldest = kind === 'recent' ? now_ms() - RECENT_MS : -Infinity;
    this.shown = all.filter((one) => !(one.since < oldest) && this.#hits(one));
    if (this.#down) this.shown.reverse();
    this.fading = kind === 'left' ? 0 : this.shown.reduce((sum, one) => sum + (one.gone !== null), 0);
  }

  /** Whether the search finds this user; each name is checked once. */
  #hits(one) {
    if (!this.search) return true;
    if (one.hitBy !== this.search) [one.hit, one.hitBy] = [this.search(folded(one)), this.search];
    return one.hit;
  }

  /** The number of users shown, without the fading ones. */
  get matches() { return this.shown.length - this.fading; }
}
