/** What the reader can do: copy a command, and end sessions after a question. */

import { $, make, setText } from './tools.js';

/** The daemon's address. A proxy may serve it below a path. */
export const DAEMON = new URL('..', import.meta.url);

/** The path of a user, or null for a name that no path can contain. */
export function userPath(user, query = '') {
  if (user === '.' || user === '..') return null;
  return `v1/users/${encodeURIComponent(user)}${query}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command for a shell. Never the token itself: the shell reads it from the variable TOKEN. */
export function curl(method, path, withToken, body) {
  const parts = ['curl', method !== 'GET' && `-X ${method}`, withToken && '-H "Authorization: Bearer $TOKEN"', body && `--json ${quoted(JSON.stringify(body))}`];
  return [...parts, quoted(new URL(path, DAEMON).href)].filter(Boolean).join(' ');
}

/** Copies a text, and says so on the button. If the page may not write to the clipboard, the text is selected: Ctrl+C works. */
export async function copy(button, text, element) {
  const before = button.dataset.words ??= button.textContent;
  let done = 'Selected';
  getSelection().selectAllChildren(element);
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text), done = 'Copied';
  } catch { /* not allowed */ }
  button.textContent = done;
  setTimeout(() => { button.textContent = before; }, 1500);
}

/** The copy buttons next to commands. */
export function copyButtons() {
  for (const button of document.querySelectorAll('.command button')) {
    const code = button.previousElementSibling;
    button.addEventListener('click', () => copy(button, code.textContent, code));
  }
}

/** Asks whether to end a session, or all (`session` is null), and resolves to true or false. */
export function confirmEnd(user, session, keys, last, command) {
  const dialog = $('confirm');
  $('confirm-title').replaceChildren(session === null ? 'End all sessions of ' : 'End the session ', ...(session === null ? [] : [make('bdi', '', session), ' of ']), make('bdi', '', user), '?');
  $('confirm-keys').replaceChildren(...keys.map((key) => make('li', '', key)));
  setText($('confirm-words'), last ? 'The daemon deletes what keeps this user online. The user goes offline at once.' : 'The daemon deletes this key. The user’s other sessions keep the user online.');
  setText($('confirm-curl'), command);
  dialog.returnValue = '';
  dialog.showModal();
  $('confirm-no').focus();
  return new Promise((resolve) => dialog.addEventListener('close', () => resolve(dialog.returnValue === 'end'), { once: true }));
}

$('confirm-yes').addEventListener('click', () => $('confirm').close('end'));
$('confirm-no').addEventListener('click', () => $('confirm').close());
