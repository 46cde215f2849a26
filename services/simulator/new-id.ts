import { randomBytes } from 'node:crypto';

/** An id that nobody can guess; whoever has a session's may pay it, as with any payment link. */
export function newId(prefix: 'ses' | 'ref' | 'evt'): string {
  return `${prefix}_${randomBytes(18).toString('base64url')}`;
}
