/** A seed, printed so that a failing run can be repeated with SLUICE_TEST_SEED. */
export function printedSeed(): number {
  const seed = Number(process.env.SLUICE_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
  return seed;
}

/** Equal seeds give equal numbers from 0 to 1 (mulberry32). */
export function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A copy in another order. */
export function shuffled<Item>(items: readonly Item[], next: () => number): Item[] {
  const copy = [...items];
  for (let last = copy.length - 1; last > 0; last -= 1) {
    const other = Math.floor(next() * (last + 1));
    [copy[last], copy[other]] = [copy[other] as Item, copy[last] as Item];
  }
  return copy;
}

/** Cuts into pieces of 1 to `lengthMax`. */
export function pieces<Item>(
  items: readonly Item[],
  lengthMax: number,
  next: () => number,
): Item[][] {
  const cut: Item[][] = [];
  for (let from = 0; from < items.length; ) {
    const length = 1 + Math.floor(next() * lengthMax);
    cut.push(items.slice(from, from + length));
    from += length;
  }
  return cut;
}
