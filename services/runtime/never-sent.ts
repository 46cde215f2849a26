import { Refusal } from './refusals.ts';

/** Nothing was sent, or nobody began it: the only failure that surely had no effect. */
export class NeverSent extends Refusal {}

/** The peer refused to begin it, because it is going away or full; another may take it at once. */
export class TurnedAway extends NeverSent {}
