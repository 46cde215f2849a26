import { after, before, test } from 'node:test';
import { whyNoFakeClocks } from '../../deploy/local/libfaketime.ts';
import { expectCleanAudit } from '../support/expect-at-rest.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import {
  expectExpiry,
  expectKeeper,
  expectRecheck,
  expectRelays,
  expectSweep,
} from './background-work.ts';
import { ClockBuyers } from './clock-buyers.ts';
import { type ClockName, type ClockShop, onSale, startClockShop } from './clock-shop.ts';

// One clock steps by ten minutes, forward or back, and back again: MySQL's, Redis's, or that of a host with a copy of
// order and one of stock. Nothing is sold that is not on sale. Orders are refused with a reason at most until the clocks
// are judged; afterwards all of them are made, also while the clock is still wrong, and all background work goes on.

const stepSeconds = 600;
/** Clocks are looked at every second. */
const judgedMs = 2_000;
const skip = whyNoFakeClocks();
const options = { ...(skip === undefined ? {} : { skip }), timeout: 300_000 };

let shop: ClockShop;
let buyers: ClockBuyers;

before(async () => {
  if (skip !== undefined) return;
  shop = await startClockShop();
  buyers = new ClockBuyers(shop.system);
  await buyers.untilServed(performance.now());
});

after(async () => {
  await buyers?.stop();
  await shop?.close();
});

const cases: readonly (readonly [ClockName, number])[] = [
  ['MySQL', stepSeconds],
  ['MySQL', -stepSeconds],
  ['Redis', stepSeconds],
  ['Redis', -stepSeconds],
  ['a host', stepSeconds],
  ['a host', -stepSeconds],
];

for (const [name, seconds] of cases) {
  test(`the clock of ${name} steps by ${seconds} s, and back`, options, async (t) => {
    try {
      await shop.set(name, seconds);
      t.diagnostic(`stepped: ${await expectAllGoesOn()}`);
    } finally {
      await shop.set(name, 0);
    }
    t.diagnostic(`stepped back: ${await expectAllGoesOn()}`);
  });
}

test(
  "copies that die while MySQL's clock is ahead leave no claims that hold up their successors",
  options,
  async () => {
    const { orders, stocks } = shop.system;
    const copies = [...orders, ...stocks];
    try {
      await shop.set('MySQL', stepSeconds);
      await expectBackgroundWork();
      await Promise.all(copies.map((copy) => copy.kill()));
    } finally {
      await shop.set('MySQL', 0);
    }
    await Promise.all(copies.map((copy) => copy.restart()));
    await buyers.untilServed(performance.now());
    await expectBackgroundWork();
  },
);

test('nothing was sold wrongly, and the audit finds nothing', options, async () => {
  await buyers.stop();
  await expectNoBreaches(shop.system, buyers.history);
  await expectCleanAudit(shop.system);
});

/** From a step on. Answers what it did to the buyers. */
async function expectAllGoesOn(): Promise<string> {
  const steppedMs = performance.now();
  const [servedMs] = await Promise.all([
    buyers.untilServed(steppedMs + judgedMs),
    expectBackgroundWork(),
  ]);
  return buyers.expectHarmless({ steppedMs, servedMs });
}

async function expectBackgroundWork(): Promise<void> {
  const { system } = shop;
  const [overdue, inTime] = buyers.newestOrders(2) as [bigint, bigint];
  await Promise.all([
    expectSweep(system, onSale[0]),
    expectKeeper(system, onSale[1]),
    expectRelays(system),
    expectRecheck(system),
    expectExpiry(system, { overdue, inTime }),
  ]);
}
