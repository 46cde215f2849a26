-- Adds or recalls units at the gate after the ledger did. While posts are under way the figure may fall
-- below zero: those the ledger then refuses give their units back, which brings it to zero again.
--
-- KEYS[1] avail    string: units that can still be admitted
-- KEYS[2] meta     hash: epoch and the server that the gate was installed on
-- ARGV[1] epoch    the SKU's epoch, read in the transaction that moved the ledger
-- ARGV[2] delta    units, negative to recall
--
-- returns 1 CREDITED
-- returns 2 GATE_OLDER: the installation under this epoch is still under way; try again
-- returns 3 GATE_NEWER: the gate was installed after the ledger moved; nothing to do
-- returns 4 NOT_LOADED: missing or installed on another server; its installation will count the units
local avail, meta = KEYS[1], KEYS[2]
local epoch, delta = tonumber(ARGV[1]), ARGV[2]
local found = redis.call('HMGET', meta, 'run_id', 'replid', 'epoch')
local gate_epoch = tonumber(found[3])
if redis.call('EXISTS', avail) == 0 or gate_epoch == nil
  or found[1] ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  or found[2] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') then
  return 4
end
if gate_epoch < epoch then return 2 end
if gate_epoch > epoch then return 3 end
redis.call('INCRBY', avail, delta)
return 1
