/**
 * keybeat in a browser, React Native, or Node 20 and newer: who is online, correct again after every lost connection.
 *
 *     import { Keybeat } from 'http://127.0.0.1:7400/keybeat.js';
 *     const keybeat = new Keybeat();
 *     keybeat.addEventListener('change', ({ detail }) => console.log(detail.user, 'is', detail.state));
 *     keybeat.watch(['alice', 'bob']);
 *
 * Events, each with a `detail`:
 * - `change`: a {@link User} whose state is known for the first time, or has changed; also a member of a watched group whose state
 *   has changed. What changed while there was no connection is reported once the client has reconnected, as one change per user.
 * - `snapshot`: `{ users, all }`, the whole answer to a watch, before the changes that follow from it.
 * - `transitions`: a list of {@link Transition}, as the daemon sends them, before the changes that follow from them.
 * - `status`: `{ user, status }`: the status of a user, any JSON, is known for the first time or has changed; null: it was removed.
 * - `group`: `{ group, members, online, users }`: a watched group with its members online, at first and after each reconnect. What
 *   changes after that is reported by `change` and `members`.
 * - `members`: `{ group, joined, left }`: members came, each a {@link User}, or went.
 * - `occupancy`: `{ group, members, online }`: the counts of a group, at once and then at most once a second.
 * - `state`: `{ state, reason, retry_ms }`: `connecting`, `live`, `waiting` for the next attempt, or `stopped` for good.
 * - `redis`: `{ redis, since_ms }`: while it is `down`, the known states may be out of date.
 * - `refused`: `{ code, message, users, group }`: the daemon refused a request; `users`, or `group`, are not watched any more.
 *
 * @typedef {{ user: string, state: 'online' | 'offline', since_ms?: number | null, sessions?: number, last_seen_ms?: number | null, stale?: boolean }} User
 * @typedef {{ seq: number, user: string, state: 'online' | 'offline', at_ms: number, since_ms?: number, last_seen_ms?: number, reason: string }} Transition
 * @typedef {'connecting' | 'live' | 'waiting' | 'stopped'} State
 * @typedef {string | (() => string | Promise<string>)} Token
 * @typedef {{ url?: string | URL, token?: Token, user?: string, session?: string, beat?: false | 'message', WebSocket?: typeof WebSocket }} Options
 */

/** The shortest and the longest wait. The upper bound doubles with each attempt; each wait is drawn at random below it. */
const BACKOFF_MS = [250, 15_000];
/** A connection that stayed live for this long resets the backoff. */
const HELD_MS = 10_000;
/** After this much silence the client pings: until all snapshots have come, and later. */
const SILENCE_MS = { connecting: 15_000, live: 45_000 };
/** How long the daemon may take to open the socket, and to answer a ping: after a silence, or when the page wakes up. */
const ANSWER_MS = 15_000;
const AWAKE_MS = 5_000;
/** The shortest and the longest wait until the client calls a token function again that still returns the old token. */
const RENEW_MS = [1_000, 15_000];
/** What a close code asks for. All others: reconnect, with backoff. */
const CLOSES = {
  1009: { stop: 'too_big: a message was longer than the daemon allows' },
  1013: { later: true },
  4001: { renew: true, stop: 'token_expired: a new token is needed' },
  4003: { stop: 'forbidden: the token does not allow this' },
  4029: { later: true },
};

export class Keybeat {
  #options;
  #base;
  #listeners = new Map();
  #socket = null;
  #opened = false;
  #watches = new Watches((type, detail) => this.#tell(type, detail));
  #attempt = 0;
  #liveFrom = Infinity;
  #timer;
  #silence;
  /** The id of the unanswered ping, or 0. */
  #pingId = 0;
  /** The token that this connection has shown last, and the id of its unanswered `auth`. */
  #shown;
  #authId = 0;
  #renewal;
  /** The callers of `ready` who wait. */
  #readies = [];
  #awake = () => this.wake();

  /** @type {State} */
  state = 'connecting';
  /** Why the client waits or has stopped. */
  reason = '';
  /** @type {'up' | 'down'} */
  redis = 'up';
  /** Identifies the run of the daemon that was connected last. */
  epoch = '';

  /**
   * Connects at once, and again whenever the connection is lost. `url` is the daemon's address, with the path below which
   * a proxy serves it; by default it is the page's origin. A `token` that is a function is called for each connection and
   * when the daemon warns that the token expires. With `user`, or a token that names one, the socket keeps that user online while
   * it is open; with `beat: false` it does not, and with `beat: 'message'` only messages of this client do. A daemon that refuses
   * one of these three stops the client.
   * @param {Options} [options]
   */
  constructor(options = {}) {
    this.#options = { url: globalThis.location?.origin, WebSocket: globalThis.WebSocket, ...options };
    if (!this.#options.WebSocket) throw new TypeError('there is no WebSocket here; pass one: new Keybeat({ WebSocket })');
    if (!this.#options.url) throw new TypeError('the daemon\'s address is missing: new Keybeat({ url: "http://HOST:7400" })');
    // Not the class URL, of which React Native has only parts.
    this.#base = String(this.#options.url).replace(/[?#].*$/s, '').replace(/\/*$/, '/');
    for (const [target, type] of signals()) target?.addEventListener?.(type, this.#awake);
    queueMicrotask(() => { if (this.state === 'connecting') this.#connect(); });
  }

  /**
   * Calls `listener` with each event of this type. The events are plain objects: `{ type, detail, target }`.
   * @param {string} type
   * @param {(event: { type: string, detail: any, target: Keybeat }) => void} listener
   * @param {{ once?: boolean, signal?: AbortSignal }} [options]
   */
  addEventListener(type, listener, options = {}) {
    if (!listener || options?.signal?.aborted) return;
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Map());
    const listeners = this.#listeners.get(type);
    if (!listeners.has(listener)) listeners.set(listener, Boolean(options?.once));
    options?.signal?.addEventListener('abort', () => listeners.delete(listener));
  }

  /** Removes a listener. @param {string} type @param {Function} listener */
  removeEventListener(type, listener) { this.#listeners.get(type)?.delete(listener); }

  /** What is known of a user who is watched. @returns {User | undefined} */
  get(user) { return this.#watches.users.get(user); }

  /** The status of a user who is watched, if there is one. @param {string} user */
  status(user) { return this.#watches.statuses.get(user); }

  /** All known users: those watched by name, and with `watchAll` everybody who is online. @returns {Map<string, User>} */
  get users() { return new Map(this.#watches.users); }

  /**
   * Watches these users too. An invalid name is `refused` by itself. Returns a function that ends this watch, or, if it is
   * called with users, only their part of it. A user stays watched until every watch of that user has ended.
   * @param {Iterable<string>} users
   * @returns {(users?: Iterable<string>) => void}
   * @throws {TypeError} when `users` is a text or contains anything but texts; no user is then watched.
   */
  watch(users) {
    const [list, hold] = [names(users), {}];
    this.#sendAll(this.#watches.watch(list, hold));
    return (some = list) => this.#sendAll(this.#watches.release(names(some), hold));
  }

  /** Watches everybody. */
  watchAll() { this.#sendAll(this.#watches.watchAll()); }

  /** Stops watching these users, whoever watches them. Those whom `watchAll` covers stay known. @param {Iterable<string>} users */
  unwatch(users) { this.#sendAll(this.#watches.unwatch(names(users))); }

  /** Stops watching everybody. Users who are watched by name stay watched. */
  unwatchAll() { this.#sendAll(this.#watches.unwatchAll()); }

  /**
   * Watches groups too: their members, or with `{ count: true }` their counts. An invalid name is `refused` by itself.
   * @param {Iterable<string>} groups
   * @param {{ count?: boolean }} [options]
   */
  watchGroups(groups, { count = false } = {}) { this.#sendAll(this.#watches.watchGroups(names(groups), count)); }

  /** Stops watching these groups. @param {Iterable<string>} groups */
  unwatchGroups(groups) {
    this.#sendAll(this.#watches.unwatchGroups(names(groups)));
    this.#answered(); // the daemon does not answer the watch of a group that was unwatched since
  }

  /**
   * Sends a heartbeat of the socket's own user, or of another if the token allows it. False without a connection, and for an
   * invalid name, which is `refused`.
   */
  heartbeat(user) {
    if (typeof user === 'string' && user && !this.#watches.takesUser(user)) return false;
    return this.#opened && this.#send({ type: 'heartbeat', ...(user && { user }) });
  }

  /**
   * Sets the status of the socket's own user: any JSON of at most 1,024 bytes; null removes it. It stays when the connection ends.
   * False without a connection, and for a longer status, which is `refused`.
   */
  setStatus(status) { return this.#watches.takesStatus(status) && this.#opened && this.#send({ type: 'set_status', status }); }

  /** The socket's own user goes offline at once. False without a connection. */
  leave() { return this.#opened && this.#send({ type: 'leave' }); }

  /**
   * Resolves once the daemon has answered every watch. Rejects when the client has stopped; the error's message is the reason.
   * @returns {Promise<void>}
   */
  ready() {
    if (this.state === 'stopped') return Promise.reject(new Error(this.reason));
    if (this.state === 'live' && this.#watches.answered) return Promise.resolve();
    return new Promise((resolve, reject) => this.#readies.push({ resolve, reject }));
  }

  /** Checks the connection: reconnects now, or pings. The client does it when a page wakes up; React Native has no such event. */
  wake() {
    if (globalThis.document?.visibilityState === 'hidden') return;
    if (this.state === 'waiting') this.reconnect();
    else if (this.#opened) this.#ping(AWAKE_MS);
  }

  /** Closes the connection for good. */
  close() { this.#stop('closed'); }

  /** Reconnects now: after the client has stopped, or when the connection is known to be dead. */
  reconnect() {
    this.#drop();
    this.#connect();
  }

  async #connect() {
    clearTimeout(this.#timer);
    const { user, session, beat, WebSocket } = this.#options;
    this.#become('connecting');
    let token;
    try {
      token = await this.#token();
    } catch (why) {
      return this.#lost(1006, `no token is available: ${why.message}`);
    }
    if (this.state !== 'connecting' || this.#socket) return; // closed in the meantime
    this.#shown = token;
    const query = Object.entries({ user, session, beat: beat === false ? 'false' : beat }).filter(([, value]) => value);
    let path;
    try {
      path = `v1/ws${query.map(([name, value], i) => `${i ? '&' : '?'}${name}=${encodeURIComponent(value)}`).join('')}`;
    } catch {
      return this.#stop('invalid_request: user, session and beat must be UTF-8, and one of them has half of a surrogate pair');
    }
    let socket;
    try {
      const protocols = ['keybeat.v1', ...(token ? [`bearer.${token}`] : [])];
      socket = new WebSocket(this.#base.replace(/^http/i, 'ws') + path, protocols);
    } catch {
      const why = 'the token cannot be sent: it has spaces, or characters beyond ASCII';
      // A token function may return a better token next time.
      if (typeof this.#options.token === 'function') return this.#lost(1006, `no token is available: ${why}`);
      return this.#stop(`invalid_token: ${why}`);
    }
    this.#socket = socket;
    this.#guard();
    const plain = this.#base + path;
    socket.onopen = () => this.#open(socket);
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#receive(data); };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      if (this.#opened) this.#lost(code, reason);
      else this.#notOpened(plain, token);
    };
    // Node 20 reports a refused handshake by this event alone.
    socket.onerror = () => { if (socket === this.#socket && !this.#opened) this.#notOpened(plain, token); };
  }

  /** A browser hides why the daemon refused the socket. The answer to a plain request has the reason. */
  async #notOpened(url, token) {
    this.#drop();
    const { status, message } = await whyRefused(url, token);
    if (this.state !== 'connecting' || this.#socket) return; // closed or reconnected in the meantime
    // A token function may return a better token soon: this one had just expired, or is not valid yet.
    const renews = status === 401 && typeof this.#options.token === 'function';
    if ((status === 401 || status === 403 || refusesOptions(status, message)) && !renews) this.#stop(message);
    else this.#lost(status === 429 || status === 503 ? 1013 : 1006, message);
  }

  async #token() {
    const { token } = this.#options;
    if (typeof token !== 'function') return token;
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`the token function took more than ${ANSWER_MS / 1000} s`)), ANSWER_MS);
    });
    try {
      return await Promise.race([token(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #open(socket) {
    if (socket !== this.#socket) return socket.close();
    this.#opened = true;
    this.#guard();
    this.#sendAll(this.#watches.connected());
    this.#answered(); // nobody is watched yet
  }

  #sendAll(messages) { for (const message of messages) this.#send(message); }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #receive(text) {
    const pinged = this.#pingId;
    this.#pingId = 0;
    this.#guard();
    let message;
    try { message = JSON.parse(text) ?? {}; } catch { return; }
    const { type } = message;
    if (type === 'hello') this.epoch = message.epoch;
    else if (type === 'status') this.#status(message);
    else if (type === 'snapshot') this.#watches.snapshot(message);
    else if (type === 'transitions') this.#watches.transitions(message.transitions);
    else if (type === 'members') this.#watches.members(message);
    else if (type === 'occupancy') this.#watches.occupancy(message);
    else if (type === 'statuses') this.#watches.changed(message.statuses);
    else if (type === 'token') this.#tokenSays(message);
    else if (type === 'error' && !(pinged && message.id === pinged)) this.#error(message);
    this.#answered();
  }

  #status({ redis, since_ms }) {
    if (redis === this.redis) return;
    this.redis = redis;
    this.#tell('redis', { redis, since_ms });
  }

  /** Live, once the daemon has answered every watch. */
  #answered() {
    if (!this.#opened || !this.#watches.answered) return;
    this.#live();
    for (const { resolve } of this.#readies.splice(0)) resolve();
  }

  #live() {
    if (this.state === 'live') return;
    this.#liveFrom = Date.now();
    this.#become('live');
    this.#guard();
  }

  #tokenSays({ state, expires_ms }) {
    clearTimeout(this.#renewal);
    if (state === 'expiring') this.#renew(expires_ms);
  }

  /** Shows a new token. A function that still returns the old one is called again later. */
  async #renew(expires_ms) {
    if (typeof this.#options.token !== 'function') return;
    const socket = this.#socket;
    let token;
    try { token = await this.#token(); } catch { /* none yet */ }
    if (socket !== this.#socket || !this.#opened) return;
    const [least, most] = RENEW_MS;
    const wait = Math.min(most, Math.max(least, (expires_ms - Date.now()) / 2));
    // Also when the daemon refuses the new token.
    this.#renewal = setTimeout(() => this.#renew(expires_ms), wait);
    if (!token || token === this.#shown) return;
    this.#shown = token;
    this.#authId = this.#watches.nextId();
    this.#send({ type: 'auth', token, id: this.#authId });
  }

  #error({ id, code, message, group }) {
    if (id && id === this.#authId) return; // the next renewal, or the close with 4001, follows
    if (code === 'not_ready' && this.#watches.asked(id)) return this.#lost(1013, message);
    this.#watches.error({ id, code, message, group });
  }

  /** Waits for the next message. After a silence the client pings; without an answer the connection is dead. */
  #guard() {
    clearTimeout(this.#silence);
    this.#silence = this.#opened
      ? setTimeout(() => this.#ping(), SILENCE_MS[this.state] ?? SILENCE_MS.live)
      : setTimeout(() => this.#dead(), ANSWER_MS);
  }

  #ping(patience = ANSWER_MS) {
    if (this.#pingId) return;
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#dead(), patience);
    this.#pingId = this.#watches.nextId();
    this.#send({ type: 'ping', id: this.#pingId });
  }

  #dead() {
    this.#drop();
    this.#lost(1006, 'the daemon does not answer');
  }

  #drop() {
    const socket = this.#socket;
    clearTimeout(this.#silence);
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    this.#socket = null;
    this.#opened = false;
    this.#pingId = this.#authId = 0;
    this.#watches.lost();
    socket?.close();
  }

  #lost(code, reason) {
    const advice = CLOSES[code] ?? {};
    const renews = advice.renew && typeof this.#options.token === 'function';
    if (advice.stop && !renews) return this.#stop(reason || advice.stop);
    this.#drop();
    if (Date.now() - this.#liveFrom > HELD_MS) this.#attempt = 0;
    this.#liveFrom = Infinity;
    if (advice.later) this.#attempt = 30; // the full range at once
    const [least, most] = BACKOFF_MS;
    const ceiling = Math.min(most, least * 2 ** ++this.#attempt);
    const wait = least + Math.random() * (ceiling - least);
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#become('waiting', reason, wait);
  }

  #stop(reason) {
    this.#drop();
    if (reason === 'closed') for (const [target, type] of signals()) target?.removeEventListener?.(type, this.#awake);
    this.#become('stopped', reason);
    for (const { reject } of this.#readies.splice(0)) reject(new Error(reason));
  }

  #become(state, reason = '', retry_ms = undefined) {
    this.state = state;
    this.reason = reason;
    this.#tell('state', { state, reason, retry_ms });
  }

  #tell(type, detail) {
    const listeners = this.#listeners.get(type);
    for (const [listener, once] of [...(listeners ?? [])]) {
      if (once) listeners.delete(listener);
      try {
        (listener.handleEvent ?? listener).call(this, { type, detail, target: this });
      } catch (why) {
        queueMicrotask(() => { throw why; }); // the caller's fault, and not the client's
      }
    }
  }
}

/** Events of the page after which a connection may be dead. */
const signals = () => [
  [globalThis.document, 'visibilitychange'],
  ...['pageshow', 'online', 'focus'].map((type) => [globalThis, type]),
];

/**
 * Whether the daemon refused `user`, `session` or `beat`, as it would on each connection. A daemon that would have accepted the socket
 * refuses the plain request because it is no WebSocket handshake.
 */
const refusesOptions = (status, message) => status === 400 && /^invalid_(user|session|request): (?!\/v1\/ws speaks WebSocket)/.test(message);

/** The reason with which the daemon refuses a plain request to the socket's address. No status if there is no answer in time. */
async function whyRefused(url, token) {
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), ANSWER_MS);
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(url, { cache: 'no-store', signal: patience.signal, headers });
    const { error } = await answer.json();
    return { status: answer.status, message: `${error.code}: ${error.message}` };
  } catch {
    return { message: 'no daemon answers' };
  } finally {
    clearTimeout(timer);
  }
}
