// A part of /keybeat.js: what the caller wants to watch, what the daemon was asked, and what is known.
// tests/clients/table.json has the rules for one user.

/** A message may have 64 KiB. This many bytes of it may be names. */
const NAMES_BYTES = 48 * 1024;
/** The daemon's limits for a name, in bytes of UTF-8, and for a status, in bytes of JSON. */
const NAME_BYTES = 256;
const STATUS_BYTES = 1024;

class Watches {
  /** Reports an event to the caller. */
  #tell;
  /** Whether there is a connection; its daemon was asked for everything that the caller wants. */
  #open = false;
  /** The users to watch by name, each with the id of its unanswered watch, or 0. */
  #names = new Map();
  /** For each of these users, the calls of `watch` that have not ended. */
  #holds = new Map();
  #all = false;
  /** The id of the unanswered watch of everybody, or 0. */
  #allId = 0;
  /** Whether a snapshot of everybody was reported: then a user who is not in `users` is offline. */
  #allKnown = false;
  /** Unanswered watches by id: the users asked for (null: everybody), and those that have come so far. */
  #pending = new Map();
  #lastId = 0;
  /**
   * The groups to watch, each with whether only its counts are wanted, the id of its unanswered watch or 0, and whether the
   * daemon has answered on this connection. Only the answer to the latest watch of a group counts; the daemon answers none that was
   * unwatched since.
   */
  #groups = new Map();
  /** What is known: states, and statuses of users who have one. */
  users = new Map();
  statuses = new Map();

  constructor(tell) { this.#tell = tell; }

  /** An id for a message. */
  nextId() { return ++this.#lastId; }

  /** Whether the daemon has answered every watch. */
  get answered() { return !this.#pending.size; }

  /** Whether this is the id of an unanswered watch. */
  asked(id) { return this.#pending.has(id); }

  // These return the messages that the daemon needs.

  connected() {
    this.#open = true;
    return [...(this.#all ? [this.#askAll()] : []), ...this.#ask([...this.#names.keys()]), ...this.#askGroups([...this.#groups.keys()])];
  }

  lost() {
    this.#open = false;
    this.#pending.clear();
    for (const [group, { count }] of this.#groups) this.#groups.set(group, { count, id: 0, begun: false });
  }

  /** `hold` stands for this call. */
  watch(users, hold) {
    const more = users.filter((user) => !this.#names.has(user));
    const valid = new Set(more.filter(isName));
    for (const user of valid) this.#names.set(user, 0);
    for (const user of users) if (this.#names.has(user)) this.#holds.set(user, (this.#holds.get(user) ?? new Set()).add(hold));
    const invalid = more.filter((user) => !isName(user));
    if (invalid.length) this.#refuseName('user', invalid[0], { users: invalid });
    return this.#open ? this.#ask([...valid]) : [];
  }

  watchAll() {
    if (this.#all) return [];
    this.#all = true;
    return this.#open ? [this.#askAll()] : [];
  }

  /** Ends one call of `watch` for these users. Users whom no other call watches are unwatched. */
  release(users, hold) {
    return this.unwatch(users.filter((user) => this.#holds.get(user)?.delete(hold) && !this.#holds.get(user).size));
  }

  unwatch(users) {
    const gone = users.filter((user) => this.#names.delete(user));
    for (const user of gone) {
      this.#holds.delete(user);
      this.#forget(user);
    }
    return this.#open ? [...chunks(gone)].map((some) => ({ type: 'unwatch', users: some })) : [];
  }

  unwatchAll() {
    const asked = this.#open && this.#all;
    this.#forgetAll();
    return asked ? [{ type: 'unwatch', all: true }] : [];
  }

  /** Whether the daemon takes this user of a heartbeat. Otherwise the user is refused here. */
  takesUser(user) {
    const valid = isName(user);
    if (!valid) this.#refuseName('user', user);
    return valid;
  }

  /** The same for a status. */
  takesStatus(status) {
    const size = bytes(JSON.stringify(status) ?? '');
    if (size > STATUS_BYTES) this.#refuse('too_large', `the status has ${size} bytes; at most ${STATUS_BYTES} bytes of JSON are allowed`);
    return size <= STATUS_BYTES;
  }

  #refuseName(kind, name, named) {
    const rule = `it must have 1 to ${NAME_BYTES} bytes of UTF-8, without # and control characters`;
    const shown = JSON.stringify(name.slice(0, 40)) + (name.length > 40 ? '…' : '');
    this.#refuse(`invalid_${kind}`, `not a ${kind} name: ${shown}; ${rule}`, named);
  }

  /** Refuses what the daemon would refuse. A message that is too long would make the daemon close the connection. */
  #refuse(code, message, named) { queueMicrotask(() => this.#tell('refused', { code, message, users: [], ...named })); }

  watchGroups(groups, count) {
    const valid = groups.filter(isName);
    for (const group of groups) if (!isName(group)) this.#refuseName('group', group, { group });
    for (const group of valid) {
      this.#pending.delete(this.#groups.get(group)?.id);
      this.#groups.set(group, { count, id: 0, begun: false });
    }
    return this.#open ? this.#askGroups([...new Set(valid)]) : [];
  }

  unwatchGroups(groups) {
    const gone = groups.filter((group) => this.#dropGroup(group));
    return this.#open ? gone.map((group) => ({ type: 'unwatch', groups: [group] })) : [];
  }

  /** One message for each group, whose answer has its id. */
  #askGroups(groups) {
    return groups.map((group) => {
      const [id, watch] = [this.nextId(), this.#groups.get(group)];
      watch.id = id;
      this.#pending.set(id, { group, users: [] });
      return { type: 'watch', groups: [group], id, ...(watch.count && { count: true }) };
    });
  }

  #dropGroup(group) {
    this.#pending.delete(this.#groups.get(group)?.id);
    const there = this.#groups.delete(group);
    // The statuses of its members.
    if (!this.#allKnown && !this.#hasMembers) for (const user of this.statuses.keys()) if (!this.#names.has(user)) this.statuses.delete(user);
    return there;
  }

  /** Whether the daemon sends changes of users as members of a group. */
  get #hasMembers() { return [...this.#groups.values()].some(({ begun, count }) => begun && !count); }

  /**
   * Whether news of a user whose state is not known can be of a member of a group. The client does not know who the members
   * are: a snapshot has only those online.
   */
  #isMember(user) { return !this.#names.has(user) && this.#hasMembers; }

  #ask(users) {
    return [...chunks(users)].map((some) => {
      const id = this.nextId();
      for (const user of some) this.#names.set(user, id);
      this.#pending.set(id, { asked: some, users: [] });
      return { type: 'watch', users: some, id };
    });
  }

  #askAll() {
    const id = this.#allId = this.nextId();
    this.#pending.set(id, { asked: null, users: [] });
    return { type: 'watch', all: true, id };
  }

  // These take the daemon's messages.

  snapshot({ id, users, more, refused = [], group, members, online }) {
    const pending = this.#pending.get(id);
    if (!pending) return;
    pending.users = pending.users.concat(users);
    if (more) return;
    this.#pending.delete(id);
    if (group !== undefined) {
      this.#begun(group);
      this.#noteAll(pending.users);
      this.#tell('group', { group, members, online, users: pending.users });
      return;
    }
    // A user who was unwatched since, or watched again by a later message, is skipped.
    const current = ({ user }) => pending.asked ? this.#names.get(user) === id : this.#allId === id;
    const news = pending.users.filter(current);
    if (pending.asked) for (const { user } of news) this.#names.set(user, 0);
    if (pending.asked || this.#allId === id) {
      this.#tell('snapshot', { users: news, all: !pending.asked });
      if (!pending.asked) this.#leftOut(news);
      for (const { status, ...user } of news) this.#learn(user);
      for (const { user, status = null } of news) this.#note(user, status);
    }
    for (const { user, code, message } of refused) this.#refused([user], id, code, message);
  }

  /** A user who was online and is missing in a snapshot of everybody has gone offline. */
  #leftOut(online) {
    const here = new Set(online.map(({ user }) => user));
    this.#allKnown = true;
    this.#allId = 0;
    for (const { user, state } of [...this.users.values()]) {
      if (state === 'online' && !here.has(user)) this.#learn({ user, state: 'offline', last_seen_ms: null });
    }
    // The daemon sends the statuses of users who are offline after the snapshot.
    for (const user of [...this.statuses.keys()]) if (!here.has(user) && !this.#names.has(user)) this.#note(user, null);
  }

  changed(statuses) {
    for (const { user, status } of statuses) if (this.#state(user) || this.#isMember(user)) this.#note(user, status);
  }

  #begun(group) { Object.assign(this.#groups.get(group), { id: 0, begun: true }); }

  #noteAll(users) { for (const { user, status = null } of users) this.#note(user, status); }

  members({ group, joined, left }) {
    const watch = this.#groups.get(group);
    if (!watch?.begun || watch.count) return; // older than the snapshot
    this.#noteAll(joined);
    this.#tell('members', { group, joined, left });
  }

  occupancy({ id = 0, group, members, online }) {
    const watch = this.#groups.get(group);
    if (!watch?.count || id !== watch.id) return; // older than the watch
    this.#pending.delete(id);
    this.#begun(group);
    this.#tell('occupancy', { group, members, online });
  }

  #note(user, status) {
    const json = (value) => JSON.stringify(value ?? null);
    if (json(status) === json(this.statuses.get(user))) return;
    if (status === null) this.statuses.delete(user);
    else this.statuses.set(user, status);
    this.#tell('status', { user, status });
  }

  transitions(transitions) {
    this.#tell('transitions', transitions);
    for (const { user, state, since_ms, last_seen_ms } of transitions) {
      const news = state === 'online' ? { user, state, since_ms, sessions: 1 } : { user, state, last_seen_ms };
      if (this.#state(user)) this.#learn(news);
      else if (this.#isMember(user)) this.#tell('change', news);
      // Otherwise it was sent before an unwatch, or before the snapshot.
    }
  }

  #state(user) { return this.users.get(user)?.state ?? (this.#allKnown ? 'offline' : undefined); }

  #learn(user) {
    const by_name = this.#names.has(user.user);
    const before = this.users.has(user.user) || !by_name ? this.#state(user.user) : undefined;
    if (user.state === 'offline' && !by_name) this.users.delete(user.user);
    else this.users.set(user.user, user);
    if (before !== user.state) this.#tell('change', user);
  }

  #forget(user) {
    if (!this.#allKnown) this.statuses.delete(user);
    if (!this.#allKnown || this.users.get(user)?.state === 'offline') this.users.delete(user);
  }

  #forgetAll() {
    this.#all = this.#allKnown = false;
    this.#allId = 0;
    for (const known of [this.users, this.statuses]) {
      for (const user of known.keys()) if (!this.#names.has(user)) known.delete(user);
    }
  }

  error({ id, code, message, group }) {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (group !== undefined || pending?.group !== undefined) {
      const name = group ?? pending.group;
      // Otherwise it answers a watch that was replaced.
      const ended = this.#groups.get(name)?.id === (id ?? 0) && this.#dropGroup(name);
      this.#tell('refused', { code, message, users: [], ...(ended && { group: name }) });
      return;
    }
    if (pending && !pending.asked && this.#allId === id) this.#forgetAll();
    if (pending?.asked) this.#refused(pending.asked, id, code, message);
    else this.#tell('refused', { code, message, users: [] });
  }

  /** Stops watching users whom the daemon refused in answer to their latest watch: it would refuse them on each connection. */
  #refused(asked, id, code, message) {
    const users = asked.filter((user) => this.#names.get(user) === id);
    for (const user of users) {
      this.#names.delete(user);
      this.#holds.delete(user);
      this.#forget(user);
    }
    this.#tell('refused', { code, message, users });
  }
}

/** The names that a caller passed. */
function names(users) {
  if (typeof users === 'string') throw new TypeError(`pass a list of names: ['${users}']`);
  const list = [...users];
  for (const user of list) {
    if (typeof user !== 'string') throw new TypeError(`a name must be a text, and this is ${user === null ? 'null' : typeof user}: ${String(user)}`);
  }
  return list;
}

/**
 * Whether the daemon takes this name of a user or a group: 1 to 256 bytes of UTF-8, no control character, no `#`. Half of a
 * surrogate pair, as in a text that was cut within an emoji, is no UTF-8: the daemon would refuse the whole message.
 */
function isName(name) {
  const size = bytes(name);
  return size >= 1 && size <= NAME_BYTES && !/[#\u0000-\u001f\u007f-\u009f\ud800-\udfff]/u.test(name);
}

/** The length of a text in UTF-8. */
function bytes(text) { return [...text].reduce((sum, char) => sum + (char < '\x80' ? 1 : char < '\u0800' ? 2 : char.length > 1 ? 4 : 3), 0); }

/** Lists of names that each fit into a message. */
function* chunks(users) {
  let some = [], size = 0;
  for (const user of users) {
    size += 3 * user.length + 4; // at most, in UTF-8 with escapes, quotes and a comma
    if (some.length && size > NAMES_BYTES) {
      yield some;
      [some, size] = [[], 3 * user.length + 4];
    }
    some.push(user);
  }
  if (some.length) yield some;
}
