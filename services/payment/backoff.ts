/** How long a repeated attempt waits: the first wait, doubled each time, up to the greatest. */
export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
}

/** Beyond this the greatest wait is reached anyway, and 2^n would outgrow a number. */
const doublingsMax = 20;

/**
 * The time of the next attempt as SQL, for a row that counts its `attempts`. Numbers only, so it may stand in a statement.
 * In an UPDATE it must come before `attempts` is raised: MySQL assigns from left to right.
 */
export function nextTimeSql({ firstMs, maxMs }: Backoff): string {
  const waitMs = `LEAST(${maxMs}, ${firstMs} * POW(2, LEAST(attempts, ${doublingsMax})))`;
  return `NOW(3) + INTERVAL CAST(${waitMs} AS UNSIGNED) * 1000 MICROSECOND`;
}

/** What clocks of a server and its successor may differ by, in milliseconds. */
const clockSlackMs = 60_000;

/**
 * The condition for rows whose `next_time` has come, as SQL. A time that is further off than any wait was written while
 * MySQL's clock was ahead: it counts as come, for otherwise the row would rest for as long as the clock was ahead.
 *
 * @param waitMaxMs the longest wait that is ever stored in these rows, in milliseconds
 */
export function dueSql(waitMaxMs: number): string {
  const farMs = Math.round(waitMaxMs + clockSlackMs);
  return `(next_time <= NOW(3) OR next_time > NOW(3) + INTERVAL ${farMs} * 1000 MICROSECOND)`;
}
