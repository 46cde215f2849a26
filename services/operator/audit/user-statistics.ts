import type { StoresLook } from './promise.ts';

const examplesMax = 100;

/** The figures that `counted_orders` gives each user, by what the orders are now. */
const recount = `SELECT user_id, currency,
    SUM(status BETWEEN 1 AND 5) AS orders, SUM(status IN (2, 3)) AS paid, SUM(status = 5) AS cancelled,
    SUM(status = 4) AS refunded, SUM(IF(status IN (2, 3, 4), total_minor, 0)) AS paid_minor,
    SUM(IF(status IN (2, 3, 4), refunded_minor, 0)) AS refunded_minor
  FROM counted_orders GROUP BY user_id, currency`;

const figures = ['orders', 'paid', 'cancelled', 'refunded', 'paid_minor', 'refunded_minor'];

/**
 * The statistics of each user are what the counted orders add up to, in one snapshot: both change in one transaction.
 * Rows of users without any counted order are searched only if the sums over all users differ, which costs far less.
 */
export async function lookAtStatistics({ stores, count, report }: StoresLook): Promise<void> {
  const differs = figures.map((name) => `s.${name} <> c.${name}`).join(' OR ');
  const wrong = await stores.events.inSnapshot(async (rows) => {
    const [users] = await rows('SELECT COUNT(*), COALESCE(SUM(orders), 0) FROM user_statistics');
    count('users', Number(users?.[0]));
    const found = await rows(
      `SELECT c.user_id, c.currency FROM (${recount}) c
       LEFT JOIN user_statistics s ON s.user_id = c.user_id AND s.currency = c.currency
       WHERE (s.user_id IS NULL AND c.orders > 0) OR ${differs} LIMIT ${examplesMax}`,
    );
    const [orders] = await rows(
      'SELECT COALESCE(SUM(status BETWEEN 1 AND 5), 0) FROM counted_orders',
    );
    if (found.length > 0 || String(orders?.[0]) === String(users?.[1])) return found;
    return await rows(
      `SELECT s.user_id, s.currency FROM user_statistics s
       LEFT JOIN (SELECT DISTINCT user_id, currency FROM counted_orders) c
         ON c.user_id = s.user_id AND c.currency = s.currency
       WHERE c.user_id IS NULL AND s.orders <> 0 LIMIT ${examplesMax}`,
    );
  });
  for (const [userId, currency] of wrong) {
    report({
      kind: 'statistics-do-not-add-up',
      sentence: `the ${currency} statistics of user ${userId} are not what the counted orders add up to`,
    });
  }
}
