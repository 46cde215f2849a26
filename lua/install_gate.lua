-- Opens a gate that was closed under this token, with the ledger's figure and epoch. The only script that
-- creates avail. Settings that are newer than those given stay.
--
-- KEYS[1] avail               string: units that can still be admitted
-- KEYS[2] meta                hash: state, settings, epoch and the server
-- KEYS[3] pending             zset: order -> ms of its admission; all of it is settled
-- KEYS[4] entries             hash: order -> <units>:<user>:<request>
-- ARGV[1] token               of the closing
-- ARGV[2] run_id              of the server that was closed
-- ARGV[3] replid              of the server that was closed
-- ARGV[4] epoch               raised in the ledger for this installation
-- ARGV[5] available           units, from the ledger
-- ARGV[6] settings_version    of the settings below
-- ARGV[7] setting_fields      field, value, ...: open_ms, close_ms (empty: none), limit, paused, price, currency
--
-- returns 1 OPENED
-- returns 2 SUPERSEDED: another closing took over, or this is another server; nothing was done
local avail, meta, pending, entries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, run_id, replid, epoch, available = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local settings_version = ARGV[6]
local FIRST_FIELD = 7
local found = redis.call('HMGET', meta, 'state', 'token', 'settings_version')
if found[1] ~= 'closing' or found[2] ~= token
  or run_id ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  or replid ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') then
  return 2
end
if (tonumber(found[3]) or -1) < tonumber(settings_version) then
  redis.call('HSET', meta, 'settings_version', settings_version, unpack(ARGV, FIRST_FIELD))
end
redis.call('HSET', meta, 'state', 'open', 'epoch', epoch, 'run_id', run_id, 'replid', replid)
redis.call('HDEL', meta, 'token', 'closing_ms', 'closing_run_id')
redis.call('UNLINK', pending, entries)
redis.call('SET', avail, available)
return 1
