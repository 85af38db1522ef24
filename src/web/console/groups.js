/** Groups that the reader watches: how many members each has, and how many of them are online. This tab remembers them. */

import { $, make, number, remembered, setKnown } from './tools.js';

export class Groups {
  #connection;
  /** The counts of each group, or why there are none. @type {Map<string, { members?: number, online?: number, why?: string }>} */
  #groups = new Map();

  /** @param {import('./connection.js').Connection} connection */
  constructor(connection) {
    this.#connection = connection;
    for (const name of JSON.parse(remembered.get('groups') ?? '[]')) this.#add(name);
    $('groups-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = $('group').value.trim();
      if (name) this.#add(name);
      $('group').value = '';
    });
    this.draw();
  }

  #add(name) {
    this.#groups.set(name, {});
    this.#connection.watchGroup(name);
    this.#keep();
  }

  #remove(name) {
    this.#groups.delete(name);
    this.#connection.unwatchGroup(name);
    this.#keep();
    $('group').focus();
  }

  #keep() {
    remembered.set('groups', JSON.stringify([...this.#groups.keys()]));
    this.draw();
  }

  /** What the daemon says of a group. */
  take(name, counts) {
    if (!this.#groups.has(name)) return;
    this.#groups.set(name, counts);
    this.draw();
  }

  draw() {
    const list = $('groups-list'), names = JSON.stringify([...this.#groups.keys()]);
    if (list.dataset.names !== names) {
      list.dataset.names = names;
      list.replaceChildren(...[...this.#groups.keys()].map((name) => this.#row(name)));
    }
    [...this.#groups.values()].forEach((counts, i) => setKnown(list.children[i].children[1], this.#words(counts)));
  }

  #words({ members, online, why }) {
    if (why) return why;
    if (members === undefined || !this.#connection.live) return null;
    return `${number.format(online)} of ${number.format(members)} online`;
  }

  #row(name) {
    const row = make('li'), button = make('button', '', '✕');
    button.type = 'button';
    button.setAttribute('aria-label', `Stop watching the group ${name}`);
    button.addEventListener('click', () => this.#remove(name));
    row.append(make('bdi', 'name', name), make('span'), button);
    return row;
  }
}
