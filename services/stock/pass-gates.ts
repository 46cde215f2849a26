import type { ReservationLine } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Batcher } from '../runtime/batcher.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { GateEntry, GateReply } from './gate.ts';
import { reserveAnswer } from './gate-scripts.ts';
import {
  gateFailureOutcome,
  gateOutcome,
  isNotLoaded,
  type Outcome,
  refused,
  unknown,
} from './reservation-outcomes.ts';
import type { Reservations } from './reservations.ts';
import type { GateChunk } from './reserve-batches.ts';
import type { RequestResync } from './resync-queue.ts';

export interface PassGatesOptions {
  readonly batches: {
    readonly gate: Batcher<GateChunk, GateReply>;
    readonly ask: Batcher<GateChunk, GateReply>;
  };
  readonly requestResync: RequestResync;
  readonly log: Log;
}

/**
 * Takes the open orders through their gates, line by line in ascending order of SKUs; answers those
 * that passed all of theirs. An order of several SKUs first asks all its gates, so that one that is
 * sold out refuses it before it has taken units of the others, which nobody else could buy meanwhile.
 */
export async function passGates(
  options: PassGatesOptions,
  reservations: Reservations,
): Promise<number[]> {
  await askGates(options, reservations);
  const admitted: number[] = [];
  let alive = reservations.open;
  for (let line = 0; alive.length > 0; line += 1) {
    const steps = alive.map((index) => ({ index, line }));
    await Promise.all(
      bySku(reservations, steps).map(([skuId, group]) =>
        passGate(options, reservations, skuId, group, line),
      ),
    );
    const passed = alive.filter((index) => reservations.gatesPassed(index) === line + 1);
    const isThrough = (index: number): boolean => reservations.at(index).lines.length === line + 1;
    admitted.push(...passed.filter(isThrough));
    alive = passed.filter((index) => !isThrough(index));
  }
  return admitted;
}

/** A line of an order. */
interface Step {
  readonly index: number;
  readonly line: number;
}

function bySku(reservations: Reservations, steps: readonly Step[]): [bigint, Step[]][] {
  const skuOf = ({ index, line }: Step): bigint =>
    (reservations.at(index).lines[line] as ReservationLine).skuId;
  return [...Map.groupBy(steps, skuOf)];
}

async function passGate(
  { batches, requestResync, log }: PassGatesOptions,
  reservations: Reservations,
  skuId: bigint,
  steps: readonly Step[],
  line: number,
): Promise<void> {
  const entries = steps.map((step): GateEntry => {
    return { reservation: reservations.at(step.index), line };
  });
  let reply: GateReply;
  try {
    reply = await batches.gate.add({ skuId, entries }, reservations.deadline);
  } catch (error) {
    const outcome = gateFailureOutcome(error, skuId, line);
    if (!(error instanceof Refusal)) log.error({ err: error }, 'a gate call failed');
    for (const { index } of steps) reservations.answer(index, outcome);
    return;
  }
  if (reply.kind === 'EXPIRED') {
    const outcome = line === 0 ? refused('OVERLOADED', 0n, false) : unknown;
    for (const { index } of steps) reservations.answer(index, outcome);
    return;
  }
  let resync = reply.kind === 'GATE_NOT_LOADED';
  for (const [at, { index }] of steps.entries()) {
    if (reply.kind === 'GATE_NOT_LOADED') {
      reservations.refuse(index, refused('STOCK_NOT_LOADED', skuId, false));
      continue;
    }
    const answer = reply.answers[at] as number | string;
    const outcome = gateOutcome(answer, skuId);
    if (outcome === undefined) reservations.passed(index, reply.epoch);
    else if (outcome.$case === 'adopted') reservations.answer(index, outcome);
    else reservations.refuse(index, outcome);
    resync ||= isNotLoaded(answer);
  }
  if (resync) requestResync(skuId, 'not_loaded');
}

/** What one gate said to a line that only asked. */
interface Said {
  readonly answer: number | string;
  readonly currency: string;
  readonly skuId: bigint;
}

/** Answers those orders of several lines that one of their gates would refuse; nothing is taken. */
async function askGates(options: PassGatesOptions, reservations: Reservations): Promise<void> {
  const several = reservations.open.filter((index) => reservations.at(index).lines.length > 1);
  if (several.length === 0) return;
  const steps = several.flatMap((index) =>
    reservations.at(index).lines.map((_, line) => ({ index, line })),
  );
  const said = new Map<number, Said[]>(several.map((index) => [index, []]));
  await Promise.all(
    bySku(reservations, steps).map(async ([skuId, group]) => {
      const replies = await askGate(options, reservations, skuId, group);
      for (const [at, { index }] of group.entries()) {
        const reply = replies[at];
        if (reply !== undefined) said.get(index)?.push(reply);
      }
    }),
  );
  for (const index of several) {
    const refusal = refusalOf(said.get(index) ?? []);
    if (refusal !== undefined) reservations.answer(index, refusal);
  }
}

/** A gate that does not answer says nothing: the order goes its way and learns it there. */
async function askGate(
  { batches, log }: PassGatesOptions,
  reservations: Reservations,
  skuId: bigint,
  steps: readonly Step[],
): Promise<(Said | undefined)[]> {
  const { deadline } = reservations;
  const asking = steps.map(({ index, line }): GateEntry => {
    return { reservation: reservations.at(index), line };
  });
  try {
    const reply = await batches.ask.add({ skuId, entries: asking }, deadline);
    if (reply.kind !== 'DECIDED') return [];
    const { currency } = reply;
    return reply.answers.map((answer) => ({ answer, currency, skuId }));
  } catch (error) {
    log.debug({ err: error }, 'a gate could not be asked');
    return [];
  }
}

/** Why an order is refused at once; undefined if it may try, or an earlier attempt of it is known here. */
function refusalOf(said: readonly Said[]): Outcome | undefined {
  const isKnown = ({ answer }: Said): boolean =>
    typeof answer === 'string' || answer === reserveAnswer.ADMITTED_BEFORE;
  if (said.some(isKnown)) return undefined;
  for (const { answer, skuId } of said) {
    const outcome = gateOutcome(answer, skuId);
    if (outcome?.$case === 'refused') return outcome;
  }
  const [first] = said;
  const differs = said.find(({ currency }) => currency !== first?.currency);
  if (differs === undefined) return undefined;
  return refused('INVALID_REQUEST', differs.skuId, false, 'lines: all SKUs must have one currency');
}
