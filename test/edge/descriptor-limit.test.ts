import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectionsWithin } from '../../services/edge/descriptor-limit.ts';

const limits = (hard: string): string =>
  `Limit                     Soft Limit           Hard Limit           Units
Max processes             95936                95936                processes
Max open files            1024                 ${hard}              files
Max locked memory         8388608              8388608              bytes
`;

const cases: [wanted: number, limits: string, connections: number][] = [
  [10_000, limits('1048576'), 10_000],
  [10_000, limits('4096'), 3_596],
  [10_000, limits('100'), 1],
  [10_000, limits('unlimited'), 10_000],
  [10_000, '', 10_000],
];

for (const [wanted, text, connections] of cases) {
  const hard = /files +\d+ +(\S+)/.exec(text)?.[1] ?? 'not told';
  test(`${wanted} connections under a limit that is ${hard} are ${connections}`, () => {
    assert.equal(connectionsWithin(wanted, text), connections);
  });
}
