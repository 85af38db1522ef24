// Two components that watch the same user, one of which unmounts; and a list of many components.
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { Keybeat } from 'keybeat';
import { KeybeatProvider, useKeybeat, usePresence } from 'keybeat/react';

const sent: string[] = [];
class Recorded extends WebSocket {
  override send(text: string) {
    sent.push(text);
    super.send(text);
  }
}
const keybeat = new Keybeat({ url: new URLSearchParams(location.search).get('daemon')!, WebSocket: Recorded });
const renders: Record<string, number> = {};

function Dot({ id, user }: { id: string; user: string }) {
  renders[id] = (renders[id] ?? 0) + 1;
  return <b id={id}>{usePresence([user]).get(user)?.state ?? 'unknown'}</b>;
}

function Online() {
  const client = useKeybeat();
  const users = usePresence(new Set(['alice', 'bob']));
  return <b id="online">{[...users.values()].filter(({ state }) => state === 'online').map(({ user }) => user).join() || client.state}</b>;
}

function App() {
  const [second, setSecond] = useState(true);
  const [many, setMany] = useState(0);
  return (
    <>
      <Dot id="first" user="alice" />
      {second && <Dot id="second" user="alice" />}
      <Online />
      <p>{Array.from({ length: many }, (_, i) => <Dot key={i} id={`many${i}`} user={`user${i}`} />)}</p>
      <button id="end" onClick={() => setSecond(false)} />
      <button id="many" onClick={() => setMany(2_000)} />
      <button id="none" onClick={() => setMany(0)} />
    </>
  );
}

Object.assign(window, { keybeat, sent, renders });
createRoot(document.querySelector('#root')!).render(
  <StrictMode><KeybeatProvider client={keybeat}><App /></KeybeatProvider></StrictMode>,
);
