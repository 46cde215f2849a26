import { resolve } from 'node:path';

/** The checkout. */
export const repositoryDir = resolve(import.meta.dirname, '../..');

/** What `npm start` and `npm test` share: fetched jars. Never holds data of a running system. */
export const sharedCacheDir = resolve(repositoryDir, '.sluice');

/** Compiled code is kept between starts: that halves the time, and the work, of loading a service. */
export const compileCacheDir = resolve(sharedCacheDir, 'compile-cache');
