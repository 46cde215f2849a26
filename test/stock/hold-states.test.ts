import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  figureChange,
  type HoldMove,
  type HoldState,
  holdState,
  stateAfter,
} from '../../services/stock/hold-states.ts';

const { HELD, SOLD, RELEASED, RESTOCKED, FENCED } = holdState;
const names = new Map<number, string>(
  Object.entries(holdState).map(([name, state]) => [state, name]),
);

const legal: [HoldState, HoldMove, HoldState, { available: bigint; held: bigint; sold: bigint }][] =
  [
    [HELD, 'RELEASE', RELEASED, { available: 3n, held: -3n, sold: 0n }],
    [HELD, 'SELL', SOLD, { available: 0n, held: -3n, sold: 3n }],
    [SOLD, 'RESTOCK', RESTOCKED, { available: 3n, held: 0n, sold: -3n }],
    [HELD, 'RESTOCK', RESTOCKED, { available: 3n, held: -3n, sold: 0n }],
  ];

for (const [from, move, to, change] of legal) {
  test(`${move} takes a hold from ${names.get(from)} to ${names.get(to)}`, () => {
    assert.equal(stateAfter(from, move), to);
    assert.deepEqual(figureChange(from, to, 3), change);
  });
}

test('every other move leaves the hold as it is', () => {
  for (const state of [HELD, SOLD, RELEASED, RESTOCKED, FENCED]) {
    for (const move of ['RELEASE', 'SELL', 'RESTOCK'] as const) {
      if (legal.some(([from, legalMove]) => from === state && legalMove === move)) continue;
      assert.equal(stateAfter(state, move), undefined, `${move} of ${names.get(state)}`);
    }
  }
});

test('events of one paid and restocked order lead to the same state in any order', () => {
  const orders: HoldMove[][] = [
    ['SELL', 'SELL', 'RESTOCK'],
    ['SELL', 'RESTOCK', 'SELL'],
    ['RESTOCK', 'SELL', 'SELL'],
    ['RESTOCK', 'RESTOCK', 'SELL'],
  ];
  for (const moves of orders) {
    let state: HoldState = HELD;
    for (const move of moves) state = stateAfter(state, move) ?? state;
    assert.equal(state, RESTOCKED, moves.join(' '));
  }
});
