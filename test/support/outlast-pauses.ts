import { Deadline } from '../../services/runtime/deadline.ts';

/** The longest pause of a whole machine that a test must survive, with room. */
const pauseMs = 3_000;

/**
 * Makes every deadline of this process later by what a busy machine may pause. Where a service and its peers share a
 * process, a pause stops both, and afterwards the caller's timer comes before the answer: a read that may take a second
 * would fail although nothing is broken. For tests in which a deadline is not what is tested.
 */
export function outlastPauses(): void {
  const { after } = Deadline;
  const { min } = Deadline.prototype;
  Deadline.after = (ms) => after.call(Deadline, ms + pauseMs);
  Deadline.prototype.min = function (ms) {
    return min.call(this, ms + pauseMs);
  };
}
