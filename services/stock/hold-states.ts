/** States of a hold, as `stock_holds.state` stores them. */
export const holdState = {
  /** Reserved for an order that is not paid yet. */
  HELD: 1,
  /** The order was paid. */
  SOLD: 2,
  /** Given back before it was sold. */
  RELEASED: 3,
  /** Given back after it was sold, on an operator's word. */
  RESTOCKED: 4,
  /** Never held: the row only bars a post that may still come. */
  FENCED: 5,
} as const;

export type HoldState = (typeof holdState)[keyof typeof holdState];

/** What may happen to a hold after it was made. */
export type HoldMove = 'RELEASE' | 'SELL' | 'RESTOCK';

/**
 * Where each move leads from each state; a state that is missing stays as it is, so repeated and
 * disordered events do no harm. A refund proves that the order was paid, so it may overtake the
 * payment: RESTOCK also takes what is still HELD, and the payment that comes later finds nothing.
 */
const moves: Readonly<Record<HoldMove, Readonly<Partial<Record<HoldState, HoldState>>>>> = {
  RELEASE: { [holdState.HELD]: holdState.RELEASED },
  SELL: { [holdState.HELD]: holdState.SOLD },
  RESTOCK: { [holdState.SOLD]: holdState.RESTOCKED, [holdState.HELD]: holdState.RESTOCKED },
};

/** The state after a move, or undefined if the move does nothing in this state. */
export function stateAfter(state: HoldState, move: HoldMove): HoldState | undefined {
  return moves[move][state];
}

/** Whether units in this state count as their user's, for the limit per user. */
export function isOwned(state: HoldState): boolean {
  return state === holdState.HELD || state === holdState.SOLD;
}

/** Changes of a SKU's figures, in units. */
export interface FigureChange {
  readonly available: bigint;
  readonly held: bigint;
  readonly sold: bigint;
}

/** How units that go from one state to another move the SKU's figures. */
export function figureChange(from: HoldState, to: HoldState, units: number): FigureChange {
  const change = { available: 0n, held: 0n, sold: 0n };
  change[figureOf(from)] -= BigInt(units);
  change[figureOf(to)] += BigInt(units);
  return change;
}

function figureOf(state: HoldState): keyof FigureChange {
  if (state === holdState.HELD) return 'held';
  if (state === holdState.SOLD) return 'sold';
  return 'available';
}
