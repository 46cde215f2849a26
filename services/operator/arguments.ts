import { InvalidArgumentError } from 'commander';
import { type PromiseId, promiseIds } from './audit/promise.ts';
import { orderIdMax } from './order-id.ts';

const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };

/** Adds one or several (comma separated) ids to those given before. */
export function idList(text: string, before: readonly string[] = []): string[] {
  const ids = text.split(',').map((part) => part.trim());
  for (const id of ids) {
    if (!isId(id)) throw new InvalidArgumentError(`"${id}" is not a positive whole number.`);
  }
  return [...before, ...ids];
}

/** Adds one or several (comma separated) promises to those given before. */
export function promiseList(text: string, before: readonly PromiseId[] = []): PromiseId[] {
  const named = text.split(',').map((part) => {
    const id = promiseIds.find((candidate) => candidate === part.trim().toUpperCase());
    if (id !== undefined) return id;
    throw new InvalidArgumentError(`"${part.trim()}" is not one of ${promiseIds.join(', ')}.`);
  });
  return [...before, ...named];
}

export function orderId(text: string): bigint {
  if (isId(text)) return BigInt(text);
  throw new InvalidArgumentError('An order id is a positive whole number below 2^63.');
}

/** A whole number within bounds. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d{1,15}$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

/** A time span such as 30d, 36h, 90m or 60s, as seconds. */
export function span(minSeconds: number): (text: string) => number {
  return (text) => {
    const [, count = '', unit = ''] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
    const seconds = Number(count) * (secondsOf[unit] ?? 0);
    if (unit === '') throw new InvalidArgumentError('It must be like 30d, 36h, 90m or 60s.');
    if (seconds >= minSeconds) return seconds;
    throw new InvalidArgumentError(`It must be ${minSeconds / 86_400} days or more.`);
  };
}

function isId(text: string): boolean {
  return /^[1-9]\d{0,18}$/.test(text) && BigInt(text) <= orderIdMax;
}
