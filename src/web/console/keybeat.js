/**
 * keybeat in a browser, or in Node 22 and newer: who is online, kept true through every lost connection.
 *
 *     import { Keybeat } from 'http://127.0.0.1:7400/keybeat.js';
 *     const keybeat = new Keybeat();
 *     keybeat.addEventListener('change', ({ detail }) => console.log(detail.user, 'is', detail.state));
 *     keybeat.watch(['alice', 'bob']);
 *
 * Events, each with a `detail`:
 * - `change`: a {@link User} who is known for the first time, or whose state is another than before. What happened
 *   while there was no connection is told as one change, once it is back.
 * - `snapshot`: `{ users, all }`, the whole answer to a watch, before the changes that it brings.
 * - `transitions`: a list of {@link Transition}, as the daemon tells them, before the changes that they bring.
 * - `state`: `{ state, reason, retry_ms }`: `connecting`, `live`, `waiting` for the next attempt, or `stopped` for good.
 * - `redis`: `{ redis, since_ms }`: while it is `down`, what is shown may be out of date.
 * - `refused`: `{ code, message }`: the daemon did not do what it was asked for.
 *
 * @typedef {{ user: string, state: 'online' | 'offline', since_ms?: number, sessions?: number, last_seen_ms?: number | null, stale?: boolean }} User
 * @typedef {{ seq: number, user: string, state: 'online' | 'offline', at_ms: number, since_ms?: number, last_seen_ms?: number, reason: string }} Transition
 * @typedef {'connecting' | 'live' | 'waiting' | 'stopped'} State
 * @typedef {string | (() => string | Promise<string>)} Token
 * @typedef {{ url?: string | URL, token?: Token, user?: string, session?: string, WebSocket?: typeof WebSocket }} Options
 */

/** Waits between attempts: they double from the first to the last, and each is drawn from between. */
const BACKOFF_MS = [250, 15_000];
/** A connection that held so long earns a quick return. */
const HELD_MS = 10_000;
/** How long the daemon may be silent before the snapshots are there. */
const SNAPSHOT_MS = 15_000;
/** A message may have 64 KiB; so much of one is names. */
const NAMES_BYTES = 48 * 1024;

/** What a close code says to do; all others: come back, with backoff. */
const CLOSES = {
  1009: { stop: 'too_big: a message was longer than the daemon allows' },
  1013: { later: true },
  4001: { renew: true, stop: 'token_expired: a new token is needed' },
  4003: { stop: 'forbidden: the token does not allow this' },
  4029: { later: true },
};

export class Keybeat extends EventTarget {
  #options;
  #socket = null;
  #opened = false;
  #names = new Set();
  #all = false;
  #users = new Map();
  /** Watches whose snapshot has not come, by their id: what has come of it. */
  #pending = new Map();
  #nextId = 1;
  #attempt = 0;
  #liveFrom = Infinity;
  #timer;
  #watchdog;
  #online = () => { if (this.state === 'waiting') this.reconnect(); };

  /** @type {State} */
  state = 'connecting';
  /** Why it has stopped. */
  reason = '';
  /** @type {'up' | 'down'} */
  redis = 'up';
  /** Names the run of the daemon that was connected last. */
  epoch = '';

  /**
   * Connects at once, and again whenever the connection is lost. In a page that the daemon serves `url` is its own
   * address. A `token` that is a function is asked again when the daemon says that it runs out. With `user` the
   * socket keeps that user online for as long as it is open.
   * @param {Options} [options]
   */
  constructor(options = {}) {
    super();
    this.#options = { url: globalThis.location?.origin, WebSocket: globalThis.WebSocket, ...options };
    if (!this.#options.WebSocket) throw new TypeError('there is no WebSocket here; give one: new Keybeat({ WebSocket })');
    if (!this.#options.url) throw new TypeError('say where the daemon is: new Keybeat({ url: "http://HOST:7400" })');
    globalThis.addEventListener?.('online', this.#online);
    queueMicrotask(() => { if (this.state === 'connecting') this.#connect(); });
  }

  /** What is known of a user who is watched. @returns {User | undefined} */
  get(user) { return this.#users.get(user); }

  /** All who are known: those watched by name, and with `watchAll` everybody who is online. @returns {Map<string, User>} */
  get users() { return new Map(this.#users); }

  /** Watches these users too. @param {Iterable<string>} users */
  watch(users) {
    const more = [...users].filter((user) => !this.#names.has(user));
    for (const user of more) this.#names.add(user);
    if (this.#opened) this.#ask(more);
  }

  /** Watches everybody. */
  watchAll() {
    if (this.#all) return;
    this.#all = true;
    if (this.#opened) this.#askAll();
  }

  /** Ceases to watch these users; who is watched by `watchAll` too stays known. @param {Iterable<string>} users */
  unwatch(users) {
    const gone = [...users].filter((user) => this.#names.delete(user));
    if (!this.#all) for (const user of gone) this.#users.delete(user);
    if (this.#opened) for (const some of chunks(gone)) this.#send({ type: 'unwatch', users: some });
  }

  /** Ceases to watch everybody; who is watched by name stays watched. */
  unwatchAll() {
    this.#all = false;
    for (const user of this.#users.keys()) if (!this.#names.has(user)) this.#users.delete(user);
    if (this.#opened) this.#send({ type: 'unwatch', all: true });
  }

  /** A heartbeat of the socket's own user, or of another where the token allows it. False where there is no connection. */
  heartbeat(user) { return this.#opened && this.#send({ type: 'heartbeat', ...(user && { user }) }); }

  /** The socket's own user goes offline at once. False where there is no connection. */
  leave() { return this.#opened && this.#send({ type: 'leave' }); }

  /** Ends the connection for good. */
  close() { this.#stop('closed'); }

  /** Connects anew, now: after it has stopped, or where the connection is known to be dead. */
  reconnect() {
    this.#drop();
    this.#connect();
  }

  async #connect() {
    clearTimeout(this.#timer);
    const { url, user, session, WebSocket } = this.#options;
    this.#become('connecting');
    let token;
    try {
      token = await this.#token();
    } catch (why) {
      return this.#lost(1006, `the token is not to be had: ${why.message}`);
    }
    if (this.state !== 'connecting' || this.#socket) return; // closed meanwhile
    const address = new URL('/v1/ws', url);
    if (user) address.searchParams.set('user', user);
    if (session) address.searchParams.set('session', session);
    const plain = new URL(address);
    address.protocol = address.protocol.replace('http', 'ws');
    let socket;
    try {
      socket = new WebSocket(address, ['keybeat.v1', ...(token ? [`bearer.${token}`] : [])]);
    } catch {
      return this.#stop('invalid_token: the token cannot be sent');
    }
    this.#socket = socket;
    this.#guard();
    socket.onopen = () => this.#open(socket);
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#receive(data); };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      if (this.#opened) this.#lost(code, reason);
      else this.#notOpened(plain, token);
    };
    // Node 20 tells of a handshake that was refused by this alone.
    socket.onerror = () => { if (socket === this.#socket && !this.#opened) this.#notOpened(plain, token); };
  }

  /** A browser hides why it was refused; the answer to a plain request says it. */
  async #notOpened(url, token) {
    this.#drop();
    const { status, message } = await whyRefused(url, token);
    if (this.state !== 'connecting' || this.#socket) return; // closed, or begun anew, meanwhile
    if (status === 401 || status === 403) this.#stop(message);
    else this.#lost(status === 429 || status === 503 ? 1013 : 1006, message);
  }

  #token() {
    const { token } = this.#options;
    return typeof token === 'function' ? token() : token;
  }

  #open(socket) {
    if (socket !== this.#socket) return socket.close();
    this.#opened = true;
    this.#pending.clear();
    if (this.#all) this.#askAll();
    this.#ask([...this.#names]);
    if (!this.#pending.size) this.#live(); // nobody is watched yet
  }

  #ask(users) {
    for (const some of chunks(users)) {
      const id = this.#nextId++;
      this.#pending.set(id, { asked: some, users: [] });
      this.#send({ type: 'watch', users: some, id });
    }
  }

  #askAll() {
    const id = this.#nextId++;
    this.#pending.set(id, { asked: null, users: [] });
    this.#send({ type: 'watch', all: true, id });
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #receive(text) {
    if (this.state === 'connecting') this.#guard();
    let message;
    try { message = JSON.parse(text) ?? {}; } catch { return; }
    if (message.type === 'hello') this.epoch = message.epoch;
    else if (message.type === 'snapshot') this.#snapshot(message);
    else if (message.type === 'transitions') this.#transitions(message.transitions);
    else if (message.type === 'status') {
      this.redis = message.redis;
      this.#tell('redis', { redis: message.redis, since_ms: message.since_ms });
    } else if (message.type === 'token' && message.state === 'expiring') this.#renew();
    else if (message.type === 'error') this.#error(message);
  }

  #snapshot({ id, users, more }) {
    const pending = this.#pending.get(id);
    if (!pending) return;
    pending.users = pending.users.concat(users);
    if (more) return;
    this.#pending.delete(id);
    this.#tell('snapshot', { users: pending.users, all: !pending.asked });
    if (!pending.asked) this.#leftOut(pending.users);
    for (const user of pending.users) this.#learn(user);
    if (!this.#pending.size) this.#live();
  }

  /** Who was online and is in no snapshot of everybody has gone meanwhile. */
  #leftOut(online) {
    const here = new Set(online.map(({ user }) => user));
    for (const { user, state } of [...this.#users.values()]) {
      if (state === 'online' && !here.has(user) && this.#all) this.#learn({ user, state: 'offline', last_seen_ms: null });
    }
  }

  #transitions(transitions) {
    this.#tell('transitions', transitions);
    for (const { user, state, since_ms, last_seen_ms } of transitions) {
      if (!this.#all && !this.#names.has(user)) continue; // on its way while it was unwatched
      this.#learn(state === 'online' ? { user, state, since_ms, sessions: 1 } : { user, state, last_seen_ms });
    }
  }

  #learn(user) {
    const before = this.#users.get(user.user);
    if (user.state === 'offline' && !this.#names.has(user.user)) this.#users.delete(user.user);
    else this.#users.set(user.user, user);
    const known = before?.state ?? (this.#names.has(user.user) ? undefined : 'offline');
    if (known !== user.state) this.#tell('change', user);
  }

  #live() {
    clearTimeout(this.#watchdog);
    this.#liveFrom = Date.now();
    if (this.state !== 'live') this.#become('live');
  }

  async #renew() {
    if (typeof this.#options.token !== 'function') return;
    const socket = this.#socket;
    const token = await Promise.resolve(this.#token()).catch(() => null);
    if (token && socket === this.#socket && this.#opened) this.#send({ type: 'auth', token });
  }

  #error({ id, code, message }) {
    this.#tell('refused', { code, message });
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    // It would be refused again after each return.
    if (pending.asked) for (const user of pending.asked) this.#names.delete(user);
    else this.#all = false;
    if (!this.#pending.size) this.#live();
  }

  #guard() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#drop();
      this.#lost(1006, 'the daemon says nothing');
    }, SNAPSHOT_MS);
  }

  #drop() {
    const socket = this.#socket;
    clearTimeout(this.#watchdog);
    clearTimeout(this.#timer);
    this.#socket = null;
    this.#opened = false;
    this.#pending.clear();
    socket?.close();
  }

  #lost(code, reason) {
    const advice = CLOSES[code] ?? {};
    const renews = advice.renew && typeof this.#options.token === 'function';
    if (advice.stop && !renews) return this.#stop(reason || advice.stop);
    this.#drop();
    if (Date.now() - this.#liveFrom > HELD_MS) this.#attempt = 0;
    this.#liveFrom = Infinity;
    if (advice.later) this.#attempt = 30; // the longest range at once
    const [least, most] = BACKOFF_MS;
    const ceiling = Math.min(most, least * 2 ** ++this.#attempt);
    const wait = least + Math.random() * (ceiling - least);
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#become('waiting', reason, wait);
  }

  #stop(reason) {
    this.#drop();
    if (reason === 'closed') globalThis.removeEventListener?.('online', this.#online);
    this.#become('stopped', reason);
  }

  #become(state, reason = '', retry_ms = undefined) {
    this.state = state;
    this.reason = reason;
    this.#tell('state', { state, reason, retry_ms });
  }

  #tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}

/** Lists of names that each fit into a message. */
function* chunks(users) {
  let some = [], bytes = 0;
  for (const user of users) {
    bytes += 3 * user.length + 4; // at most, in UTF-8 with escapes, quotes and a comma
    if (some.length && bytes > NAMES_BYTES) {
      yield some;
      [some, bytes] = [[], 3 * user.length + 4];
    }
    some.push(user);
  }
  if (some.length) yield some;
}

/** What a plain request to the socket's address is refused with; no status where nothing is to be had. */
async function whyRefused(url, token) {
  try {
    const answer = await fetch(url, { cache: 'no-store', headers: token ? { Authorization: `Bearer ${token}` } : {} });
    const { error } = await answer.json();
    return { status: answer.status, message: `${error.code}: ${error.message}` };
  } catch {
    return { message: 'no daemon answers' };
  }
}
