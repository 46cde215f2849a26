import { Deadline } from '../../services/runtime/deadline.ts';
import { createPool, transaction } from '../../services/runtime/mysql.ts';

/** A process for a test to freeze: locks a row, says so, and rests in the middle of its transaction. */
const [url = '', row = '', statements] = process.argv.slice(2);
const multipleStatements = statements === 'multiple';
const pool = createPool(url, { database: 'frozen', connectionsMax: 1, multipleStatements });
const update = `UPDATE thing SET amount = amount + 1 WHERE id = ${row}`;
try {
  await transaction(pool, { deadline: Deadline.after(600_000) }, async (connection) => {
    await connection.query(update);
    process.stdout.write('locked\n');
    await new Promise((resolve) => process.stdin.once('data', resolve));
    await connection.query(update);
  });
  process.stdout.write('committed\n');
} catch (error) {
  process.stdout.write(`${(error as { reason?: string }).reason ?? error}\n`);
}
await pool.end();
process.stdin.destroy();
