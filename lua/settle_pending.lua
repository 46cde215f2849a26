-- Removes orders from the pending list whose units the ledger is known to hold, or to have settled.
--
-- KEYS[1] pending   zset: order -> ms at which it was admitted, by the sale's time
-- KEYS[2] entries   hash: order -> <units>:<user>:<request>
-- ARGV[1] orders    the order ids
--
-- returns n: how many of them were pending
local pending, entries = KEYS[1], KEYS[2]
redis.call('HDEL', entries, unpack(ARGV))
return redis.call('ZREM', pending, unpack(ARGV))
