/** The health of the daemon and its Redis servers: from /v1/stats, and from /readyz, which needs no token. */

import { $, clock, make, number, plural, setKnown, setText, span } from './tools.js';

/** Shapes that distinguish the states without colour. */
const MARKS = { up: '●', ready: '●', reconciling: '◆', down: '▲', 'not ready': '▲' };

const sum = (counts) => Object.values(counts ?? {}).reduce((all, n) => all + n, 0);

/** `2: 1 stalled, 1 lost connection`, or `none`. */
function byCause(total, counts) {
  if (!total) return 'none';
  const parts = Object.entries(counts ?? {}).filter(([, n]) => n > 0).sort(([, a], [, b]) => b - a);
  const words = parts.map(([cause, n]) => `${number.format(n)} ${cause.replaceAll('_', ' ')}`);
  return `${number.format(total)}${words.length ? `: ${words.join(', ')}` : ''}`;
}

function setState(element, state, words = state) {
  element.dataset.state = state;
  element.classList.toggle('unknown', state === 'unknown');
  setText(element, state === 'unknown' ? words : `${MARKS[state] ?? '○'} ${words}`);
}

/** The fault of Redis, as its row shows it. */
let shownCause = '';

/** Shows the body of /readyz; `null` means that no daemon answered, `undefined` that it is unknown. A cause that Redis' row shows is not repeated. */
export function renderReady(text) {
  if (text === undefined) return setState($('health-ready'), 'unknown');
  const ready = text?.trim() === 'ready', repeats = shownCause && text?.includes(shownCause);
  setState($('health-ready'), ready ? 'ready' : 'not ready', text === null ? 'no daemon answers' : repeats ? 'not ready, see Redis' : text.trim());
}

/** Shows the answer of /v1/stats; missing fields are unknown, and without an answer all are. */
export function renderHealth(stats) {
  const { version, uptime_ms, sockets, watchers, redis = {}, gaps, repairs, repairs_by_cause, keys_without_ttl } = stats ?? {};
  const daemon = [
    Number.isFinite(uptime_ms) && `up ${span(uptime_ms)}`,
    Number.isFinite(sockets) && plural(sockets, 'socket'),
    Number.isFinite(watchers) && plural(watchers, 'watcher'),
  ];
  setKnown($('health-daemon'), daemon.filter(Boolean).join(', ') || null);
  if (version) setText($('version'), version);
  renderRedis(redis);
  setKnown($('health-gaps'), gaps ? byCause(sum(gaps), gaps) : null);
  setKnown($('health-repairs'), Number.isFinite(repairs) ? byCause(repairs, repairs_by_cause) : null);
  optional('immortal', keys_without_ttl ? `${number.format(keys_without_ttl)}: their users stay online until the keys are deleted` : '');
  for (const name of ['stream', 'webhooks']) optional(name, fields(stats?.[name]));
}

/** A row that is there only if there is something to say. */
function optional(name, text) {
  $(`health-${name}`).parentElement.hidden = !text;
  setText($(`health-${name}`), text);
}

/** The fields that describe themselves. */
const PLAIN = ['name', 'url', 'role'];

/** The fields of an object, or of several, in words: `events, writer, lag 3, written 1,200`. */
function fields(value) {
  if (Array.isArray(value)) return value.map(fields).filter(Boolean).join('; ');
  const known = Object.entries(value ?? {}).filter(([, one]) => one !== null);
  return known.map(([name, one]) => {
    const text = typeof one === 'number' ? number.format(one) : String(one);
    if (PLAIN.includes(name)) return text;
    return name === 'last_error' ? `${MARKS.down} last error: ${text}` : `${name.replaceAll('_', ' ')} ${text}`;
  }).join(', ');
}

const SOURCES = { events: 'events of Redis', tracking: 'client tracking', sweeps: 'polling' };
const RENEWALS = { set: 'SET events', expire: 'SET and EXPIRE events', new: 'a question at each deadline', tracking: 'client tracking' };
const LEASES = { held: 'this daemon listens for all daemons', other: 'another daemon listens for all' };

function renderRedis({ status, since_ms, cause, mode, swept_servers, renewals, lease, servers }) {
  const since = since_ms ? ` since ${clock.format(since_ms)}` : '', only = servers?.length === 1 ? servers[0].name : null;
  shownCause = status !== 'up' && cause ? cause : '';
  const words = [`${status ?? 'unknown'}${since}${shownCause && `: ${shownCause}`}`, !shownCause && only];
  setState($('health-redis'), status ?? 'unknown', words.filter(Boolean).join(', '));
  const polled = mode === 'sweeps' && swept_servers ? ` of ${plural(swept_servers, 'server')}` : '';
  const source = mode && [`${SOURCES[mode] ?? mode}${polled}`, renewals && `heartbeats by ${RENEWALS[renewals] ?? renewals}`, status === 'up' && LEASES[lease]];
  setKnown($('health-mode'), source ? source.filter(Boolean).join(', ') : null);
  $('health-servers').hidden = !(servers?.length > 1); // of one server, the rows above say all
  $('health-servers').tBodies[0].replaceChildren(...(servers ?? []).map(serverRow));
}

function serverRow({ name, state, mode, renewals, lease, gaps }) {
  const row = make('tr'), head = make('th', '', name ?? ''), stateCell = make('td');
  head.scope = 'row';
  setState(stateCell, state ?? 'unknown');
  row.append(head, stateCell, make('td', '', [mode, renewals, state !== 'down' && LEASES[lease] && `lease ${lease}`].filter(Boolean).join(', ')), make('td', 'right', Number.isFinite(gaps) ? number.format(gaps) : ''));
  return row;
}
