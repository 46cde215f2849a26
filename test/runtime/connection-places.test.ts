import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ConnectionPlaces,
  type Place,
  type PlaceReason,
  peerOf,
} from '../../services/runtime/connection-places.ts';

/** Places, and who lost theirs. */
function placesOf(connectionsMax: number, perPeerMax: number, trusted = 'none') {
  const isTrusted = (address: string): boolean => address === trusted;
  const places = new ConnectionPlaces({ connectionsMax, perPeerMax, isTrusted });
  const lost: [name: string, reason: PlaceReason][] = [];
  const take = (name: string, address: string): Place | PlaceReason =>
    places.take(address, (reason) => lost.push([name, reason]));
  const taken = (name: string, address: string): Place => {
    const place = take(name, address);
    assert.ok(typeof place !== 'string', `${name} is ${place}`);
    return place;
  };
  return { places, lost, take, taken };
}

test('a full house gives the place of the oldest unfinished connection, then of the one idle for longest', () => {
  const { places, lost, taken } = placesOf(4, 10);
  const idleLong = taken('idle for long', '10.0.0.1');
  places.move(idleLong, 'busy');
  places.move(idleLong, 'idle');
  const busy = taken('busy', '10.0.0.2');
  places.move(busy, 'busy');
  taken('unfinished', '10.0.0.3');
  const idle = taken('idle', '10.0.0.4');
  places.move(idle, 'idle');
  for (const name of ['first', 'second', 'third']) {
    places.move(taken(name, '10.0.0.5'), 'busy');
  }
  assert.deepEqual(lost, [
    ['unfinished', 'full'],
    ['idle for long', 'full'],
    ['idle', 'full'],
  ]);
  assert.equal(places.size, 4);
});

test('when all are busy, the new one is turned away, and each that leaves makes room', () => {
  const { places, lost, take, taken } = placesOf(2, 10);
  const first = taken('first', '10.0.0.1');
  for (const place of [first, taken('second', '10.0.0.2')]) places.move(place, 'busy');
  assert.equal(take('third', '10.0.0.3'), 'full');
  places.leave(first);
  places.leave(first);
  assert.equal(places.size, 1);
  taken('third', '10.0.0.3');
  assert.deepEqual(lost, []);
});

test('a peer that has taken all of its own loses its own, and only a trusted one has no such bound', () => {
  const { places, lost, take, taken } = placesOf(100, 2, '10.9.9.9');
  taken('other', '10.0.0.1');
  for (const name of ['a', 'b', 'c']) taken(name, '10.0.0.2');
  assert.deepEqual(lost, [['a', 'address_full']]);
  for (const name of ['d', 'e']) places.move(taken(name, '10.0.0.3'), 'busy');
  assert.equal(take('f', '10.0.0.3'), 'address_full');
  for (let count = 0; count < 10; count += 1) taken('proxy', '10.9.9.9');
  assert.equal(lost.length, 1);
});

test('a connection that lost its place does nothing to the places any more', () => {
  const { places, taken } = placesOf(1, 1);
  const gone = taken('gone', '10.0.0.1');
  const next = taken('next', '10.0.0.2');
  places.move(gone, 'idle');
  places.leave(gone);
  assert.equal(places.size, 1);
  places.move(next, 'busy');
  assert.equal(
    places.take('10.0.0.3', () => {}),
    'full',
  );
});

const peers: [address: string, peer: string][] = [
  ['10.1.2.3', '10.1.2.3'],
  ['::ffff:10.1.2.3', '10.1.2.3'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::9', '2001:db8:1:2::/64'],
  ['2001:db8::9', '2001:db8:0:0::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1', 'fe80:0:0:0::/64'],
  ['', ''],
];

for (const [address, peer] of peers) {
  test(`the address ${address || 'of nobody'} stands for ${peer || 'nobody'}`, () => {
    assert.equal(peerOf(address), peer);
  });
}
