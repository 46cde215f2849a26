-- Gives units back that orders took at this gate and that the ledger will never hold: a FENCED row bars
-- their posts. The pending entry is the proof that an order's units are still out, so it is credited once.
--
-- KEYS[1] avail            string: units that can still be admitted
-- KEYS[2] buyers           hash: user -> units held or owned
-- KEYS[3] pending          zset: order -> ms at which it was admitted, by the sale's time
-- KEYS[4] entries          hash: order -> <units>:<user>:<request>
-- KEYS[5] request_records  string each, one per order: <order>:<fingerprint>
-- ARGV[1] orders           the order ids
--
-- returns {credited...}: per order 1 if its units came back, 0 if it was not pending
local avail, buyers, pending, entries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local FIRST_KEY = 5
-- Only an installation creates avail: a credit must not make a gate that is missing look like one that is not.
local exists = redis.call('EXISTS', avail) == 1
local credited = {}
for i = 1, #ARGV do
  local order = ARGV[i]
  credited[i] = 0
  if redis.call('ZREM', pending, order) == 1 then
    local units, user = string.match(redis.call('HGET', entries, order) or '', '^(%d+):(%d+):')
    redis.call('HDEL', entries, order)
    if units and exists then
      redis.call('INCRBY', avail, units)
      local has = tonumber(redis.call('HGET', buyers, user)) or 0
      redis.call('HSET', buyers, user, math.max(0, has - units))
      credited[i] = 1
    end
  end
  local record = redis.call('GET', KEYS[FIRST_KEY + i - 1])
  if record and string.sub(record, 1, #order + 1) == order .. ':' then
    redis.call('DEL', KEYS[FIRST_KEY + i - 1])
  end
end
return credited
