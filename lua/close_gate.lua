-- Closes a gate, also one that is missing, so that it can be installed anew. The token makes the closer the
-- only one who may install; whoever closes later takes the right over, but not while another's work is fresh.
-- A key of the gate that is of another type than it has to be, which no script can use, is removed.
--
-- KEYS[1] meta             hash: state, install token and when it was last heard of
-- KEYS[2] avail            string
-- KEYS[3] buyers           hash
-- KEYS[4] pending          zset
-- KEYS[5] entries          hash
-- ARGV[1] token            <owner>:<attempt>, unique to this attempt; who failed need not wait for himself
-- ARGV[2] fresh_ms         how long another's closing is respected after it was last heard of
-- ARGV[3] deadline_ms      Redis time after which nothing may be done any more
--
-- returns {1, run_id, replid} CLOSED: on this server
-- returns {2, left_ms} BUSY: another process is at it; it is respected for so long at most
-- returns {3} EXPIRED: the deadline had passed; nothing was done
local meta = KEYS[1]
local token, fresh_ms, deadline_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > deadline_ms then return { 3 } end
local types = { 'hash', 'string', 'hash', 'zset', 'hash' }
for i = 1, #KEYS do
  local type = redis.call('TYPE', KEYS[i]).ok
  if type ~= 'none' and type ~= types[i] then redis.call('UNLINK', KEYS[i]) end
end
local found = redis.call('HMGET', meta, 'state', 'token', 'closing_ms', 'closing_run_id')
local owner, other = string.match(token, '^[^:]*'), string.match(found[2] or '', '^[^:]*')
if found[1] == 'closing' and other ~= owner and found[4] == run_id then
  local age_ms = now_ms - (tonumber(found[3]) or 0)
  if age_ms >= 0 and age_ms < fresh_ms then return { 2, fresh_ms - age_ms } end
end
redis.call('HSET', meta, 'state', 'closing', 'token', token, 'closing_ms', now_ms, 'closing_run_id', run_id)
return { 1, run_id, replid }
