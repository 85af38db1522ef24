// Presence in React, version 18 and newer.
import { createContext, createElement, useContext, useMemo, useSyncExternalStore } from 'react';

const Context = createContext(null);

/** Gives the components below it a client. */
export function KeybeatProvider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useKeybeat() {
  const client = useContext(Context);
  if (!client) throw new Error('there is no client: wrap the component in <KeybeatProvider client={keybeat}>');
  return client;
}

/**
 * Watches these users while the component is mounted. Returns what is known of them: a map from each name to its user,
 * without the users who are not known yet. The component renders again when one of them changes.
 */
export function usePresence(names) {
  const client = useKeybeat();
  if (typeof names === 'string') throw new TypeError(`pass a list of names: ['${names}']`);
  const key = JSON.stringify([...names]);
  const store = useMemo(() => new Store(client, JSON.parse(key)), [client, key]);
  return useSyncExternalStore(store.subscribe, store.read, store.read);
}

/** Some users of a client, for one component. */
class Store {
  #client;
  #names;
  #users;

  constructor(client, names) {
    this.#client = client;
    this.#names = new Set(names);
    this.#users = this.#known();
  }

  subscribe = (changed) => {
    const update = () => { if (this.#refresh()) changed(); };
    this.#client.addEventListener('change', update);
    this.#client.addEventListener('refused', update);
    const watches = Watches.of(this.#client);
    for (const user of this.#names) watches.count(user, 1);
    this.#refresh(); // changes since the render: React reads after it has subscribed
    return () => {
      this.#client.removeEventListener('change', update);
      this.#client.removeEventListener('refused', update);
      for (const user of this.#names) watches.count(user, -1);
    };
  };

  read = () => this.#users;

  /** Returns whether anything has changed. Without a change the map stays the same, so that React does not render. */
  #refresh() {
    const users = this.#known();
    const same = users.size === this.#users.size && [...users].every(([user, known]) => this.#users.get(user) === known);
    if (!same) this.#users = users;
    return !same;
  }

  #known() {
    const users = [...this.#names].map((user) => [user, this.#client.get(user)]);
    return new Map(users.filter(([, known]) => known));
  }
}

/**
 * The users whom the components of a client watch. Components that mount together share one message: the daemon closes a
 * socket that sends too many.
 */
class Watches {
  static #all = new WeakMap();
  #client;
  #counts = new Map();
  /** For each watched user, the function that ends the watch. */
  #ends = new Map();
  /** The users whose count has changed in this turn. */
  #changed = new Set();

  static of(client) {
    if (!Watches.#all.has(client)) Watches.#all.set(client, new Watches(client));
    return Watches.#all.get(client);
  }

  constructor(client) {
    this.#client = client;
    // The next component asks for a refused user again.
    client.addEventListener('refused', ({ detail }) => { for (const user of detail.users) this.#ends.delete(user); });
  }

  count(user, change) {
    const count = (this.#counts.get(user) ?? 0) + change;
    if (count) this.#counts.set(user, count);
    else this.#counts.delete(user);
    if (!this.#changed.size) queueMicrotask(() => this.#flush());
    this.#changed.add(user);
  }

  #flush() {
    const changed = [...this.#changed];
    this.#changed.clear();
    const more = changed.filter((user) => this.#counts.has(user) && !this.#ends.has(user));
    const gone = changed.filter((user) => !this.#counts.has(user) && this.#ends.has(user));
    if (more.length) {
      const end = this.#client.watch(more);
      for (const user of more) this.#ends.set(user, end);
    }
    const ends = new Map();
    for (const user of gone) {
      const end = this.#ends.get(user);
      if (ends.has(end)) ends.get(end).push(user);
      else ends.set(end, [user]);
      this.#ends.delete(user);
    }
    for (const [end, users] of ends) end(users);
  }
}
