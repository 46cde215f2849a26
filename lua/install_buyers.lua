-- Writes one chunk of a closed gate's buyers. The first chunk removes what was there and leaves field 0, which
-- tells a hash without buyers from one that was lost. Each chunk also tells other closers that the work goes on.
--
-- KEYS[1] meta           hash: state and install token
-- KEYS[2] buyers         hash: user -> units held or owned; field 0 is always there
-- ARGV[1] token          of the closing
-- ARGV[2] run_id         of the server that was closed
-- ARGV[3] replid         of the server that was closed
-- ARGV[4] first          1 for the first chunk, or else 0
-- ARGV[5] buyer_fields   per user two: user, units; may be none
--
-- returns 1 WRITTEN
-- returns 2 SUPERSEDED: another closing took over, or this is another server; nothing was done
local meta, buyers = KEYS[1], KEYS[2]
local token, run_id, replid, first = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST_FIELD = 5
local found = redis.call('HMGET', meta, 'state', 'token')
if found[1] ~= 'closing' or found[2] ~= token
  or run_id ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  or replid ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') then
  return 2
end
local time = redis.call('TIME')
redis.call('HSET', meta, 'closing_ms', time[1] * 1000 + math.floor(time[2] / 1000))
if first == '1' then
  redis.call('UNLINK', buyers)
  redis.call('HSET', buyers, '0', '0')
end
if #ARGV >= FIRST_FIELD then redis.call('HSET', buyers, unpack(ARGV, FIRST_FIELD)) end
return 1
