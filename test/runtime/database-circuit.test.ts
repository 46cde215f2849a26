import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createDatabaseCircuit } from '../../services/runtime/database-circuit.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, query } from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';

/** Far more than open a circuit if they count: ten in a row do. */
const callsMax = 60;

test('a full pool of ours refuses as OVERLOADED and opens no circuit; a server that is lost does', async () => {
  const proxy = await startTcpProxy(Number(new URL(mysqlUrl).port));
  const url = `mysql://root@127.0.0.1:${proxy.port}`;
  const pool = createPool(url, { connectionsMax: 1 });
  const log = createLog('test', 'silent');
  const circuit = createDatabaseCircuit({
    ...{ name: 'test.database', url, database: 'information_schema', log },
  });
  const ask = async (): Promise<string> => {
    const read = () => query(pool, 'SELECT 1', [], { deadline: Deadline.after(20_000) });
    return await circuit.fire(read).then(
      () => 'answered',
      (error) => (error instanceof Refusal ? error.reason : String(error)),
    );
  };
  try {
    assert.equal(await ask(), 'answered');
    const held = await pool.getConnection();
    const asked = Array.from({ length: callsMax }, ask);
    // Those that have no place even to wait are refused at once; the others wait for the connection.
    assert.equal(await Promise.race(asked), 'OVERLOADED');
    for (let call = 0; call < callsMax; call += 1) assert.equal(await ask(), 'OVERLOADED');
    assert.equal(circuit.open, false);
    held.release();
    const answers = new Set(await Promise.all(asked));
    assert.deepEqual(answers, new Set(['answered', 'OVERLOADED']));
    assert.equal(await ask(), 'answered');
    proxy.cut();
    await proxy.stop();
    await eventually(async () => {
      await ask();
      return circuit.open;
    }, 'the circuit of a lost server opens');
  } finally {
    await circuit.stop();
    await pool.end();
    await proxy.stop().catch(() => undefined);
  }
});
