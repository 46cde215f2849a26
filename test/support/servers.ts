/** The servers that `npm test` has started; a test file never starts without them. */
export const mysqlUrl = required('SLUICE_TEST_MYSQL_URL');
export const redisUrl = required('SLUICE_TEST_REDIS_URL');
export const kafkaBrokers = required('SLUICE_TEST_KAFKA_BROKERS');

/** A prefix of its own for a test file's databases, topics and consumer groups. */
export function uniquePrefix(name: string): string {
  return `t_${name}_${process.pid}_${Date.now().toString(36)}`;
}

function required(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: run the tests with npm test`);
  return value;
}
