import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';
import {
  decideTransition,
  isHidden,
  resolutionOf,
  statusName,
  type Transition,
  transitions,
} from '../../services/order/order.ts';

const stored = [
  'PENDING',
  'PAID',
  'REFUNDING',
  'REFUNDED',
  'CANCELLED',
  'QUEUED',
  'REJECTED',
  'ABORTED',
] as const;
type Name = (typeof stored)[number];
const statusOf = (name: Name): OrderStatus => OrderStatus[`ORDER_STATUS_${name}`];

/** For each transition: the state it leaves, the state it reaches; every other state refuses it. */
const table: Record<Transition, [from: Name, to: Name]> = {
  pay: ['PENDING', 'PAID'],
  beginRefund: ['PAID', 'REFUNDING'],
  finishRefund: ['REFUNDING', 'REFUNDED'],
  cancel: ['PENDING', 'CANCELLED'],
  expire: ['PENDING', 'CANCELLED'],
};

for (const [transition, [from, to]] of Object.entries(table) as [Transition, [Name, Name]][]) {
  for (const name of stored) {
    const expected = name === from ? 'moves' : name === to ? 'done' : 'illegal';
    test(`${transition} of an order that is ${name} is ${expected}`, () => {
      const effect = decideTransition(statusOf(name), transition);
      assert.equal(effect.kind, expected);
      if (expected === 'moves') {
        const { closeReason } = transitions[transition];
        assert.deepEqual(effect, { kind: 'moves', to: statusOf(to), closeReason });
      }
    });
  }
}

test('only cancelling and expiring give a reason for the close, each its own', () => {
  assert.equal(transitions.cancel.closeReason, CloseReason.CLOSE_REASON_USER);
  assert.equal(transitions.expire.closeReason, CloseReason.CLOSE_REASON_EXPIRED);
  for (const transition of ['pay', 'beginRefund', 'finishRefund'] as const) {
    assert.equal(transitions[transition].closeReason, CloseReason.CLOSE_REASON_UNSPECIFIED);
  }
});

test('only fences are hidden from reads', () => {
  for (const name of stored) assert.equal(isHidden(statusOf(name)), name === 'ABORTED');
});

const resolutions: Record<Name, keyof typeof OrderResolution> = {
  PENDING: 'ORDER_RESOLUTION_LIVE',
  PAID: 'ORDER_RESOLUTION_SOLD',
  REFUNDING: 'ORDER_RESOLUTION_SOLD',
  REFUNDED: 'ORDER_RESOLUTION_SOLD',
  CANCELLED: 'ORDER_RESOLUTION_DEAD',
  QUEUED: 'ORDER_RESOLUTION_UNDECIDED',
  REJECTED: 'ORDER_RESOLUTION_DEAD',
  ABORTED: 'ORDER_RESOLUTION_DEAD',
};

for (const name of stored) {
  test(`the stock of an order that is ${name} is ${resolutions[name]}`, () => {
    assert.equal(resolutionOf(statusOf(name)), OrderResolution[resolutions[name]]);
  });
}

test('a state that this version does not know moves nowhere and decides nothing', () => {
  const unknown = 42 as OrderStatus;
  for (const transition of Object.keys(table) as Transition[]) {
    assert.equal(decideTransition(unknown, transition).kind, 'illegal');
  }
  assert.equal(resolutionOf(unknown), OrderResolution.ORDER_RESOLUTION_UNDECIDED);
  assert.equal(statusName(unknown), 'state 42');
});
