// A world for keybeat.js without a network: a clock that the test moves, and a daemon that answers at once, whose messages
// wait until the test delivers them.
import { readFileSync } from 'node:fs';

const part = (name) => readFileSync(new URL(`../../../src/web/console/client/${name}`, import.meta.url), 'utf8');
// As the daemon serves it.
const source = `${part('keybeat.js')}\n${part('watches.js')}`;

/** Timers, in the order of their time. */
export const clock = { now: 0, timers: new Map(), next: 1 };
globalThis.setTimeout = (call, ms = 0) => {
  clock.timers.set(clock.next, { at: clock.now + ms, call });
  return clock.next++;
};
globalThis.clearTimeout = (id) => clock.timers.delete(id);
Date.now = () => clock.now;

/** Lets promises settle. */
export const settle = () => new Promise((done) => setImmediate(done));

/** Moves the clock, and calls the timers that are due. */
export async function pass(ms) {
  const end = clock.now + ms;
  for (;;) {
    const due = [...clock.timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
    if (!due) break;
    clock.timers.delete(due[0]);
    clock.now = Math.max(clock.now, due[1].at);
    due[1].call();
    await settle();
  }
  clock.now = end;
}

/** The daemon. `FakeSocket` connects to the one that was made last. */
export class Daemon {
  static current;
  online = new Set();
  watched = new Set();
  queue = [];
  received = [];
  refuses = false;
  /** Whether it refuses the next watch because too many wait. */
  full = false;
  deaf = false;
  /** Whether it has compared Redis: until then watches wait. */
  ready = true;
  waiting = [];
  socket = null;
  sockets = 0;

  constructor() { Daemon.current = this; }

  object(user) { return this.online.has(user) ? { user, state: 'online', since_ms: 1 } : { user, state: 'offline', last_seen_ms: null }; }

  flip(user) {
    if (!this.online.delete(user)) this.online.add(user);
    if (this.watched.has(user)) this.queue.push({ type: 'transitions', transitions: [this.object(user)] });
  }

  take(message) {
    if (this.deaf) return;
    this.received.push(message);
    const { type, users = [], id } = message;
    if (type === 'ping') this.queue.push({ type: 'pong', id });
    else if (type === 'unwatch') for (const user of users) this.watched.delete(user);
    else if (type === 'watch' && !this.ready) this.waiting.push(message);
    else if (type === 'watch' && this.full) {
      this.full = false;
      this.queue.push({ type: 'error', id, code: 'not_ready', message: '' });
    } else if (type === 'watch' && this.refuses) {
      this.refuses = false;
      this.queue.push({ type: 'error', id, code: 'forbidden', message: '' });
    } else if (type === 'watch') {
      for (const user of users) this.watched.add(user);
      this.queue.push({ type: 'snapshot', id, users: users.map((user) => this.object(user)), more: false });
    }
  }

  /** Answers the watches that waited. */
  becomeReady() {
    this.ready = true;
    this.waiting.splice(0).forEach((message) => this.take(message));
  }

  /** Delivers the next message. */
  deliver() {
    const message = this.queue.shift();
    if (message && !this.deaf) this.socket.onmessage({ data: JSON.stringify(message) });
    return message;
  }

  lose(code = 1006) {
    const { socket } = this;
    this.forget();
    socket?.onclose({ code, reason: '' });
  }

  forget() { [this.queue, this.watched, this.socket, this.waiting] = [[], new Set(), null, []]; }
}

export class FakeSocket {
  constructor(url, protocols) {
    Object.assign(this, { url: String(url), protocols, daemon: Daemon.current });
    this.daemon.forget();
    this.daemon.socket = this;
    this.daemon.sockets++;
    queueMicrotask(() => { if (this.daemon.socket === this) this.onopen(); });
  }

  send(text) { this.daemon.take(JSON.parse(text)); }
  close() { if (this.daemon.socket === this) this.daemon.forget(); }
}

export const { Keybeat } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
