/** The connection to the daemon: the token, the client, its state in words, and requests. */

import { Keybeat } from '../keybeat.js';
import { DAEMON } from './actions.js';
import { $, clock, remembered, setText } from './tools.js';

const ANSWER_MS = 3000;
/** Polls without an answer before the connection counts as dead. */
const UNANSWERED_MOST = 3;

/** Texts for the client's reasons to stop: in the head, and above the field of the token. */
const STOPPED = {
  unauthorized: ['A token is required', () => 'This daemon requires a token.'],
  invalid_token: ['The token is not valid', (why) => `The daemon does not accept this token: ${why}`],
  token_expired: ['The token has expired', () => 'The token has expired. Enter a new one.'],
  forbidden: ['This token may not watch everybody', (why) => `The daemon refuses: ${why}`],
};

/** Shapes that distinguish the states without colour: disc, ring, triangle, diamond, cross. */
const SHAPES = {
  live: 'M8 1a7 7 0 1 1 0 14A7 7 0 1 1 8 1z',
  connecting: 'M8 1a7 7 0 1 1 0 14A7 7 0 1 1 8 1zm0 3a4 4 0 1 0 0 8a4 4 0 1 0 0-8z',
  waiting: 'M8 1l8 14H0z',
  down: 'M8 0l8 8-8 8-8-8z',
  stopped: 'M3 0l5 5 5-5 3 3-5 5 5 5-3 3-5-5-5 5-3-3 5-5-5-5z',
};

/** Whether the token names a user, whom a socket with this token would keep online. */
function namesUser(token) {
  try {
    return typeof JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))).sub === 'string';
  } catch {
    return false; // a service token
  }
}

export class Connection {
  #on;
  #keybeat = null;
  #phase = 'connecting';      // connecting, live, waiting, stopped
  #redis = 'up';
  #redisSince = null;
  #redisAt = -Infinity;       // when a message said so
  #unanswered = 0;
  #stopReason = '';
  #retryAt = 0;
  #askedReady = false;        // in this outage
  #groups = new Set();
  /** A snapshot has arrived. */
  haveView = false;

  /**
   * @param {Record<string, Function>} on `state()` after each change, `live()`, `ready(text)` with the answer of /readyz or null,
   *   `snapshot(users)`, `transitions(list)`, `status()`, `group(name, counts or { why })`
   */
  constructor(on) { this.#on = on; }

  /** The token of this tab, or the empty text. */
  get token() { return remembered.get('token') ?? ''; }

  /** Connected, and everything is known that the daemon knows. */
  get live() { return this.#phase === 'live' && this.haveView && this.#redis === 'up'; }

  get connected() { return this.#phase === 'live'; }

  /** The daemon answers. */
  get answers() { return this.connected && !this.#unanswered; }

  status(user) { return this.#keybeat?.status(user); }

  /** Uses the token of the address, which is removed there: the history and a copied address would reveal it. */
  takeToken() {
    const given = new URLSearchParams(location.hash.slice(1)).get('token');
    if (given === null) return false;
    history.replaceState(null, '', location.pathname + location.search);
    this.useToken(given);
    return true;
  }

  /** Connects with another token; an empty one is forgotten. */
  useToken(token) {
    remembered.set('token', token || null);
    this.connect();
  }

  connect() {
    const before = this.#keybeat;
    this.#keybeat = null;
    before?.close();
    [this.#redis, this.#redisSince, this.#unanswered] = ['up', null, 0];
    const mine = new Keybeat({ url: DAEMON, token: this.token, ...(namesUser(this.token) && { beat: false }) }); // to look puts nobody online
    const on = (type, handle) => mine.addEventListener(type, ({ detail }) => { if (mine === this.#keybeat) handle(detail); });
    on('state', (detail) => this.#state(detail));
    on('snapshot', ({ users, all }) => { if (all) this.#snapshot(users); });
    on('transitions', (transitions) => { if (this.#phase === 'live') this.#on.transitions(transitions); });
    on('status', () => this.#on.status());
    on('occupancy', ({ group, ...counts }) => this.#on.group(group, counts));
    on('redis', ({ redis, since_ms }) => {
      this.#redisAt = performance.now();
      this.#setRedis(redis, since_ms);
    });
    on('refused', ({ code, message, group }) => {
      if (group === undefined) return this.#stop(code, message);
      this.#groups.delete(group);
      this.#on.group(group, { why: message });
    });
    this.#keybeat = mine;
    mine.watchAll();
    if (this.#groups.size) mine.watchGroups(this.#groups, { count: true });
  }

  watchGroup(group) {
    this.#groups.add(group);
    this.#keybeat?.watchGroups([group], { count: true });
  }

  unwatchGroup(group) {
    this.#groups.delete(group);
    this.#keybeat?.unwatchGroups([group]);
  }

  /** Sends a request, with the token. */
  ask(method, path, body) {
    return fetch(new URL(path, DAEMON), {
      method, body: body && JSON.stringify(body), cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS),
      headers: { ...(body && { 'Content-Type': 'application/json' }), ...(this.token && { Authorization: `Bearer ${this.token}` }) },
    });
  }

  /** A poll was answered, and says this of Redis. A message that arrived after the request is newer. */
  answered(asked, redis) {
    const news = this.#unanswered > 0;
    this.#unanswered = 0;
    if (redis && this.#redisAt < asked) this.#setRedis(redis, this.#redisSince);
    else if (news) this.draw();
  }

  /** A poll was not answered. Without this the connection of a daemon that vanished would look open for minutes. */
  notAnswered() {
    this.#unanswered += 1;
    this.draw();
    if (this.#unanswered >= UNANSWERED_MOST) this.#keybeat?.reconnect();
  }

  #snapshot(users) {
    this.#on.snapshot(users);
    this.haveView = true;
  }

  #state({ state, reason, retry_ms }) {
    if (state === 'stopped') {
      const [, code, why] = /^(\w+)(?:: *(.*))?$/s.exec(reason) ?? [];
      return this.#stop(code, why ?? reason, reason);
    }
    $('ask').hidden = true;
    if (state === 'connecting') [this.#redis, this.#redisSince, this.#unanswered] = ['up', null, 0];
    if (state === 'waiting') {
      this.#retryAt = performance.now() + retry_ms;
      if (!this.#askedReady) this.#askReady();
    }
    this.#phase = state;
    this.draw();
    if (state !== 'live') return;
    this.#askedReady = false;
    this.#on.live();
  }

  /** The text of /readyz; null if no daemon answers, undefined if another address has it (--admin-listen). */
  async readiness() {
    const answer = await this.ask('GET', 'readyz').catch(() => null);
    return answer && (answer.status === 404 ? undefined : answer.text());
  }

  /** Without a connection, /readyz may still know the cause. Once per outage is enough. */
  async #askReady() {
    this.#askedReady = true;
    this.#on.ready(await this.readiness());
  }

  #stop(code, why, whole = `The daemon refused: ${why}`) {
    const mine = this.#keybeat, [words, explain] = STOPPED[code] ?? [whole];
    this.#keybeat = null;
    mine?.close();
    $('ask').hidden = !explain;
    setText($('ask-why'), explain?.(why) ?? '');
    this.#stopReason = words;
    this.#phase = 'stopped';
    this.draw();
    this.#askReady();
  }

  #setRedis(status, since) {
    [this.#redis, this.#redisSince] = [status, since];
    this.draw();
  }

  #words() {
    if (this.#phase === 'connecting') return ['connecting', this.haveView ? 'Connecting' : 'Connecting…'];
    if (this.#phase === 'waiting') return ['waiting', 'Reconnecting'];
    if (this.#phase === 'stopped') return ['stopped', this.#stopReason];
    if (this.#unanswered) return ['waiting', 'The daemon does not answer'];
    if (this.#redis === 'down') return ['down', `Redis down${this.#redisSince ? ` since ${clock.format(this.#redisSince)}` : ''}`];
    if (this.#redis === 'reconciling') return ['down', 'Redis is back, reconciling'];
    return ['live', 'Live'];
  }

  /** Shows the state as shape and text. `stale`: what is shown of users may be outdated. `away`: so is what is shown of the daemon. */
  draw() {
    const [shape, words] = this.#words(), stale = this.haveView && shape !== 'live';
    $('pill').dataset.shape = shape;
    $('pill').querySelector('path').setAttribute('d', SHAPES[shape]);
    setText($('words'), words);
    setText($('countdown'), this.#phase === 'waiting' ? ` in ${Math.max(1, Math.ceil((this.#retryAt - performance.now()) / 1000))} s` : '');
    setText($('warning'), stale ? '. The data may be stale' : '');
    document.body.classList.toggle('stale', stale);
    document.body.classList.toggle('away', !this.answers);
    this.#on.state(stale);
  }
}
