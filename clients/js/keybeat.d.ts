// The types of keybeat.js.

/** The daemon's knowledge of a user. Times are milliseconds since the Unix epoch. */
export type User = OnlineUser | OfflineUser;

export interface OnlineUser {
  user: string;
  state: 'online';
  /** Null if the daemon has not seen the user come online. */
  since_ms: number | null;
  /** How many keys of the user are live. After a change it is 1 until the next snapshot. */
  sessions: number;
  /** The daemon cannot reach Redis: the state may be out of date. */
  stale?: boolean;
  /** Any JSON that the user's programs have set. Only in the lists of events; `get` has none: call `status(user)`. */
  status?: unknown;
  last_seen_ms?: undefined;
}

export interface OfflineUser {
  user: string;
  state: 'offline';
  /** Null if the daemon has not seen the user. */
  last_seen_ms: number | null;
  stale?: boolean;
  status?: unknown;
  since_ms?: undefined;
  sessions?: undefined;
}

/** A change as the daemon sends it. */
export interface Transition {
  seq: number;
  user: string;
  state: 'online' | 'offline';
  at_ms: number;
  since_ms?: number;
  last_seen_ms?: number;
  reason: 'heartbeat' | 'expired' | 'deleted' | 'reconciled';
}

/** `connecting`, `live`, `waiting` for the next attempt, or `stopped` for good. */
export type State = 'connecting' | 'live' | 'waiting' | 'stopped';

/** The `detail` of each event. */
export interface KeybeatEventMap {
  /** A user whose state is known for the first time, or has changed; also a member of a watched group whose state has changed. */
  change: User;
  /** The whole answer to a watch, before the changes that follow from it. */
  snapshot: { users: User[]; all: boolean };
  /** The daemon's transitions, before the changes that follow from them. */
  transitions: Transition[];
  state: { state: State; reason: string; retry_ms: number | undefined };
  /** While Redis is `down`, the known states may be out of date. */
  redis: { redis: 'up' | 'down'; since_ms: number };
  /** The status of a user, any JSON, is known for the first time or has changed; null: it was removed. */
  status: { user: string; status: unknown };
  /** A watched group with its members online, at first and after each reconnect. Then `change` and `members` report what changes. */
  group: { group: string; members: number; online: number; users: User[] };
  /** Members of a watched group came, or went. */
  members: { group: string; joined: User[]; left: string[] };
  /** The counts of a group, at once and then at most once a second. */
  occupancy: { group: string; members: number; online: number };
  /** The daemon refused a request. `users`, or `group`, are not watched any more; the list is empty if the request named no users. */
  refused: { code: string; message: string; users: string[]; group?: string };
}

export interface KeybeatEvent<Type extends keyof KeybeatEventMap> {
  type: Type;
  detail: KeybeatEventMap[Type];
  target: Keybeat;
}

export type KeybeatListener<Type extends keyof KeybeatEventMap> =
  | ((event: KeybeatEvent<Type>) => void)
  | { handleEvent(event: KeybeatEvent<Type>): void };

export interface KeybeatOptions {
  /** The daemon's address, with the path below which a proxy serves it. By default the page's origin. */
  url?: string | URL;
  /** A token, or a function that returns one. It is called for each connection and before a token expires. */
  token?: string | (() => string | Promise<string>);
  /** The socket keeps this user online while it is open. A daemon that refuses `user`, `session` or `beat` stops the client. */
  user?: string;
  /** The session of `user`. By default each connection has its own. */
  session?: string;
  /** `false`: the socket does not keep `user` online. `'message'`: only messages of this client do. */
  beat?: false | 'message';
  /** A class to use instead of the global WebSocket. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

/** A list, a Set or another sequence of names. A text is not one. */
export type Names = Iterable<string> & object;

/** A client of a keybeat daemon. It connects at once, and again whenever the connection is lost. */
export class Keybeat {
  constructor(options?: KeybeatOptions);

  readonly state: State;
  /** Why the client waits or has stopped. */
  readonly reason: string;
  readonly redis: 'up' | 'down';
  /** Identifies the run of the daemon that was connected last. */
  readonly epoch: string;
  /** All known users, as a copy. */
  readonly users: Map<string, User>;

  addEventListener<Type extends keyof KeybeatEventMap>(
    type: Type,
    listener: KeybeatListener<Type>,
    options?: { once?: boolean; signal?: AbortSignal },
  ): void;
  removeEventListener<Type extends keyof KeybeatEventMap>(type: Type, listener: KeybeatListener<Type>): void;

  /** The known state of a user who is watched. */
  get(user: string): User | undefined;
  /**
   * Watches these users too. Returns a function that ends this watch, or, if it is called with users, only their part of
   * it. A user stays watched until every watch of that user has ended.
   * @throws {TypeError} when `users` is a text or contains anything but texts; no user is then watched.
   */
  watch(users: Names): (users?: Names) => void;
  /** Watches everybody. */
  watchAll(): void;
  /** Stops watching these users, whoever watches them. */
  unwatch(users: Names): void;
  /** The status of a user who is watched, if there is one. */
  status(user: string): unknown;
  /** Watches groups too: their members, or with `count` their counts. An invalid name is `refused` by itself. */
  watchGroups(groups: Names, options?: { count?: boolean }): void;
  /** Stops watching these groups. */
  unwatchGroups(groups: Names): void;
  /**
   * Sets the status of the socket's own user: any JSON of at most 1,024 bytes; null removes it. False without a connection, and for
   * a longer status, which is `refused`.
   */
  setStatus(status: unknown): boolean;
  /** Stops watching everybody. Users who are watched by name stay watched. */
  unwatchAll(): void;
  /** Resolves once the daemon has answered every watch. Rejects when the client has stopped. */
  ready(): Promise<void>;
  /**
   * Sends a heartbeat of the socket's own user, or of another if the token allows it. False without a connection, and for an
   * invalid name, which is `refused`.
   */
  heartbeat(user?: string): boolean;
  /** The socket's own user goes offline at once. False without a connection. */
  leave(): boolean;
  /** Checks the connection: reconnects now, or pings. Call it in React Native when the app becomes active. */
  wake(): void;
  /** Closes the connection for good. */
  close(): void;
  /** Reconnects now: after the client has stopped, or when the connection is known to be dead. */
  reconnect(): void;
}
