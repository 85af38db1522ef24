/** How the daemon and its Redis servers are: from /v1/stats, and from /readyz, which needs no token. */

import { $, clock, make, number, plural, setText, span } from './tools.js';

/** Shapes that tell the states apart without their hue. */
const MARKS = { up: '●', ready: '●', reconciling: '◆', down: '▲', 'not ready': '▲' };

const sum = (counts) => Object.values(counts ?? {}).reduce((all, n) => all + n, 0);

/** `2: 1 lagged, 1 lost connection`, or what is said of none. */
function byCause(total, counts) {
  if (!total) return 'none';
  const parts = Object.entries(counts ?? {}).filter(([, n]) => n > 0).sort(([, a], [, b]) => b - a);
  const words = parts.map(([cause, n]) => `${number.format(n)} ${cause.replaceAll('_', ' ')}`);
  return `${number.format(total)}${words.length ? `: ${words.join(', ')}` : ''}`;
}

function setState(element, state, words = state) {
  element.dataset.state = state;
  setText(element, `${MARKS[state] ?? '○'} ${words}`);
}

/** What /readyz says; nothing where no daemon answers. */
export function renderReady(text) {
  const ready = text?.trim() === 'ready';
  setState($('health-ready'), ready ? 'ready' : 'not ready', text === null ? 'no daemon answers' : text.trim());
}

/** The answer of /v1/stats; fields that it does not have are left out. */
export function renderHealth(stats) {
  const { uptime_ms, sockets, watchers, redis = {}, gaps, repairs, repairs_by_cause, keys_without_ttl } = stats;
  const daemon = [
    Number.isFinite(uptime_ms) && `up ${span(uptime_ms)}`,
    Number.isFinite(sockets) && plural(sockets, 'socket'),
    Number.isFinite(watchers) && plural(watchers, 'watcher'),
  ];
  setText($('health-daemon'), daemon.filter(Boolean).join(', ') || 'not known');
  renderRedis(redis);
  setText($('health-gaps'), gaps ? byCause(sum(gaps), gaps) : 'not known');
  setText($('health-repairs'), Number.isFinite(repairs) ? byCause(repairs, repairs_by_cause) : 'not known');
  $('health-immortal').parentElement.hidden = !keys_without_ttl;
  if (keys_without_ttl) setText($('health-immortal'), `${number.format(keys_without_ttl)}: these users never go offline by themselves`);
}

function renderRedis({ status, since_ms, cause, mode, swept_servers, servers }) {
  const since = since_ms ? ` since ${clock.format(since_ms)}` : '';
  setState($('health-redis'), status ?? 'not known', `${status ?? 'not known'}${since}${status !== 'up' && cause ? `: ${cause}` : ''}`);
  const told = { events: 'told by events', sweeps: `looked for by sweeps${swept_servers ? ` at ${plural(swept_servers, 'server')}` : ''}` };
  setText($('health-mode'), told[mode] ?? mode ?? 'not known');
  $('health-servers').hidden = !servers?.length;
  $('health-servers').tBodies[0].replaceChildren(...(servers ?? []).map(serverRow));
}

function serverRow({ name, state, mode, gaps }) {
  const row = make('tr'), head = make('th', '', name ?? ''), stateCell = make('td');
  head.scope = 'row';
  setState(stateCell, state ?? 'not known');
  row.append(head, stateCell, make('td', '', mode ?? ''), make('td', 'right', Number.isFinite(gaps) ? number.format(gaps) : ''));
  return row;
}
