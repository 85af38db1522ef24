import type { ReactElement, ReactNode } from 'react';
import type { Keybeat, Names, User } from './keybeat.js';

/** Gives the components below it a client. */
export function KeybeatProvider(props: { client: Keybeat; children?: ReactNode }): ReactElement;

/** The client of the nearest provider. */
export function useKeybeat(): Keybeat;

/**
 * Watches these users while the component is mounted. Returns what is known of them: a map from each name to its user,
 * without the users who are not known yet. The component renders again when one of them changes.
 */
export function usePresence(names: Names): ReadonlyMap<string, User>;
