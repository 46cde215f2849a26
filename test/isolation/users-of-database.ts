import { slotOfUser } from '../../services/order/order-id.ts';
import type { System } from '../support/system.ts';

const firstUserId = 10_000n;
const usersMax = 2_000;

/** Users whose orders are in one of the order databases. */
export async function usersOfDatabase(
  { orderPools }: Pick<System, 'orderPools'>,
  index: number,
): Promise<bigint[]> {
  const [rows] = await (orderPools[0] as System['stockPool']).query(
    'SELECT slots FROM slot_map WHERE id = 1',
  );
  const slots = JSON.parse(String((rows as { slots: unknown }[])[0]?.slots)) as [number, number][];
  const users = Array.from({ length: usersMax }, (_, number) => firstUserId + BigInt(number));
  return users.filter((user) => slots[slotOfUser(user)]?.[0] === index);
}
