/** The health of the daemon and its Redis servers: from /v1/stats, and from /readyz, which needs no token. */

import { $, clock, make, number, plural, setText, span } from './tools.js';

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
  setText(element, `${MARKS[state] ?? '○'} ${words}`);
}

/** Shows the body of /readyz; `null` means that no daemon answered. */
export function renderReady(text) {
  const ready = text?.trim() === 'ready';
  setState($('health-ready'), ready ? 'ready' : 'not ready', text === null ? 'no daemon answers' : text.trim());
}

/** Shows the answer of /v1/stats; missing fields are left out. */
export function renderHealth(stats) {
  const { uptime_ms, sockets, watchers, redis = {}, gaps, repairs, repairs_by_cause, keys_without_ttl } = stats;
  const daemon = [
    Number.isFinite(uptime_ms) && `up ${span(uptime_ms)}`,
    Number.isFinite(sockets) && plural(sockets, 'socket'),
    Number.isFinite(watchers) && plural(watchers, 'watcher'),
  ];
  setText($('health-daemon'), daemon.filter(Boolean).join(', ') || 'unknown');
  renderRedis(redis);
  setText($('health-gaps'), gaps ? byCause(sum(gaps), gaps) : 'unknown');
  setText($('health-repairs'), Number.isFinite(repairs) ? byCause(repairs, repairs_by_cause) : 'unknown');
  $('health-immortal').parentElement.hidden = !keys_without_ttl;
  if (keys_without_ttl) setText($('health-immortal'), `${number.format(keys_without_ttl)}: their users stay online until the keys are deleted`);
}

const LEASES = { held: 'this daemon listens for all', other: 'another daemon listens' };
const RENEWALS = { set: 'set events', expire: 'set and expire events', new: 'questions', tracking: 'client tracking' };

function renderRedis({ status, since_ms, cause, mode, swept_servers, renewals, lease, servers }) {
  const since = since_ms ? ` since ${clock.format(since_ms)}` : '';
  setState($('health-redis'), status ?? 'unknown', `${status ?? 'unknown'}${since}${status !== 'up' && cause ? `: ${cause}` : ''}`);
  const sources = { events: 'events', tracking: 'client tracking', sweeps: `polling${swept_servers ? ` of ${plural(swept_servers, 'server')}` : ''}` };
  setText($('health-mode'), [sources[mode] ?? mode ?? 'unknown', renewals && `renewals by ${RENEWALS[renewals] ?? renewals}`, LEASES[lease]].filter(Boolean).join(', '));
  $('health-servers').hidden = !servers?.length;
  $('health-servers').tBodies[0].replaceChildren(...(servers ?? []).map(serverRow));
}

function serverRow({ name, state, mode, renewals, lease, gaps }) {
  const row = make('tr'), head = make('th', '', name ?? ''), stateCell = make('td');
  head.scope = 'row';
  setState(stateCell, state ?? 'unknown');
  row.append(head, stateCell, make('td', '', [mode, renewals, LEASES[lease] && `lease ${lease}`].filter(Boolean).join(', ')), make('td', 'right', Number.isFinite(gaps) ? number.format(gaps) : ''));
  return row;
}
