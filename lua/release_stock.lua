-- Credits units that the ledger has made available again. The gate takes the credit only under the epoch
-- that the ledger had at that moment: a later installation has counted those units already.
--
-- KEYS[1] avail          string: units that can still be admitted
-- KEYS[2] meta           hash: state, epoch and the server that the gate was installed on
-- KEYS[3] buyers         hash: user -> units held or owned; kept at 0
-- KEYS[4] pending        zset: order -> ms at which it was admitted, by the sale's time
-- KEYS[5] entries        hash: order -> <units>:<user>:<request>
-- ARGV[1] epoch          the SKU's epoch, read in the transaction that moved the ledger
-- ARGV[2] order_fields   per order three: order, user, units
--
-- returns 1 CREDITED
-- returns 2 GATE_OLDER: the installation under this epoch is still under way; try again
-- returns 3 GATE_NEWER: the gate was installed after the ledger moved; nothing to credit
-- returns 4 NOT_LOADED: closed, missing or of another server; its installation will count the units
local avail, meta, buyers, pending, entries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch = tonumber(ARGV[1])
local FIRST_FIELD, FIELDS = 2, 3
local found = redis.call('HMGET', meta, 'run_id', 'replid', 'epoch', 'state')
local gate_epoch = tonumber(found[3])
if found[4] == 'closing' then
  -- It is written anew. What was released under its last epoch is counted then; what was released under a
  -- later one may have come behind the count.
  if gate_epoch == nil or gate_epoch < epoch then return 2 end
  return gate_epoch > epoch and 3 or 4
end
if redis.call('EXISTS', avail) == 0 or gate_epoch == nil
  or found[1] ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  or found[2] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') then
  return 4
end
if gate_epoch < epoch then return 2 end
if gate_epoch > epoch then return 3 end
local total = 0
for field = FIRST_FIELD, #ARGV, FIELDS do
  local order, user, units = ARGV[field], ARGV[field + 1], tonumber(ARGV[field + 2])
  total = total + units
  local has = tonumber(redis.call('HGET', buyers, user)) or 0
  redis.call('HSET', buyers, user, math.max(0, has - units))
  -- The credit stands for whatever the order took here, so nothing of it may be credited again.
  redis.call('ZREM', pending, order)
  redis.call('HDEL', entries, order)
end
redis.call('INCRBY', avail, total)
return 1
