-- Admits a batch of orders to one SKU. Each entry is decided by itself and in the batch's order; units,
-- request record, pending entry and buyer change together or not at all. Asked only, it decides each entry
-- as if it came alone, and changes nothing.
--
-- KEYS[1] avail            string: units that can still be admitted
-- KEYS[2] meta             hash: state, settings, epoch and the server that the gate was installed on
-- KEYS[3] buyers           hash: user -> units held or owned; 0 for a user who gave all back; field 0 is always there
-- KEYS[4] pending          zset: order -> ms at which it was admitted, by the sale's time
-- KEYS[5] entries          hash: order -> <units>:<user>:<request>
-- KEYS[6] request_records  string each, one per entry: <order>:<fingerprint>, kept for 24 h
-- ARGV[1] deadline_ms      Redis time after which nothing may be done any more
-- ARGV[2] not_before_ms    Redis time before which this cannot have been sent: an earlier clock was set back
-- ARGV[3] correction_ms    what to add to this server's clock to get the time that the sale goes by
-- ARGV[4] mode             take, or ask
-- ARGV[5] entry_fields     per entry six: order, user, units, 1 if the SKU is the order's lowest or else 0,
--                          its request record <order>:<fingerprint>, its pending entry <units>:<user>:<request>
--
-- returns {1, epoch, currency, answer...} DECIDED: one answer per entry, see below; currency is the SKU's
-- returns {2} GATE_NOT_LOADED: missing, in parts, or installed on another server; nothing was done
-- returns {3} EXPIRED: the clock is past the deadline, or was set back; nothing was done
-- An answer is an order id as a string (adopt it: the request got it first), or a number:
-- answer 1 ADMITTED: units taken
-- answer 2 ADMITTED_BEFORE: this order was let in before; nothing was taken
-- answer 10 KEY_REUSED: the request id stands for other content
-- answer 11 ID_TAKEN: this order id is another request's
-- answer 12 NOT_LOADED: the gate is being rebuilt
-- answer 13 NOT_STARTED
-- answer 14 ENDED
-- answer 15 PAUSED
-- answer 16 LIMIT: the user would have more than the limit
-- answer 17 SOLD_OUT
-- 100 is added to a refusal if the user is among the buyers: an order of this request may exist.
local avail, meta, buyers, pending, entries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local deadline_ms, not_before_ms, correction_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local mode = ARGV[4]
local FIRST_KEY, FIRST_FIELD, FIELDS = 6, 5, 6
local RECORD_TTL_SECONDS = '86400'

local settings = redis.call('HMGET', meta, 'run_id', 'replid', 'epoch', 'state', 'open_ms', 'close_ms', 'paused',
  'limit', 'currency')
-- A memory that fell back, or was copied to another server, is not to be trusted. Asked anew in every call.
if settings[1] ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  or settings[2] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') then
  return { 2 }
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > deadline_ms or now_ms < not_before_ms then return { 3 } end
local sale_ms = now_ms + correction_ms
-- Formatted once: Redis would print the number anew for every entry.
local sale_text = string.format('%d', sale_ms)

local left = tonumber(redis.call('GET', avail))
local closed_answer = nil
local open_ms, close_ms = tonumber(settings[5]), tonumber(settings[6])
if settings[4] ~= 'open' or left == nil then closed_answer = 12
elseif open_ms and sale_ms < open_ms then closed_answer = 13
elseif close_ms and sale_ms >= close_ms then closed_answer = 14
elseif settings[7] == '1' then closed_answer = 15 end
local limit = tonumber(settings[8]) or 0

local count = #KEYS - FIRST_KEY + 1
local orders, users = {}, {}
for i = 1, count do
  local field = FIRST_FIELD + (i - 1) * FIELDS
  orders[i] = ARGV[field]
  users[i] = ARGV[field + 1]
end
-- What the batch itself changes is written into these tables too, so that its later entries see it.
local records = redis.call('MGET', unpack(KEYS, FIRST_KEY))
local waiting = redis.call('HMGET', entries, unpack(orders))
local owned = redis.call('HMGET', buyers, '0', unpack(users))
-- An installation always leaves field 0: without it the users were lost, and with them the limit.
if not owned[1] then return { 2 } end
local record_now, waiting_now, owned_now = {}, {}, {}
local takes = mode == 'take'
local answers, taken = { 1, settings[3], settings[9] or '' }, 0
local new_pending, new_entries = {}, {}

for i = 1, count do
  local field = FIRST_FIELD + (i - 1) * FIELDS
  local order, user, units = orders[i], users[i], tonumber(ARGV[field + 2])
  local new_record, new_entry = ARGV[field + 4], ARGV[field + 5]
  local key = KEYS[FIRST_KEY + i - 1]
  local record = record_now[key] or records[i]
  local entry = waiting_now[order] or waiting[i]
  local has = owned_now[user] or owned[i + 1]
  local answer = nil
  if record == new_record then
    answer = 2
  elseif record then
    local colon = string.find(record, ':', 1, true)
    local new_colon = string.find(new_record, ':', 1, true)
    if string.sub(record, colon) ~= string.sub(new_record, new_colon) then
      answer = 10
    elseif ARGV[field + 3] == '1' then
      answer = string.sub(record, 1, colon - 1)
    end
  end
  if answer == nil and entry then
    -- The record was lost or names another id, and the units of this order are taken already.
    if entry ~= new_entry then
      answer = 11
    else
      if takes then
        redis.call('SET', key, new_record, 'EX', RECORD_TTL_SECONDS)
        record_now[key] = new_record
      end
      answer = 2
    end
  end
  if answer == nil then
    if closed_answer then answer = closed_answer
    elseif limit > 0 and (tonumber(has) or 0) + units > limit then answer = 16
    elseif left < units then answer = 17
    elseif not takes then answer = 1
    else
      answer = 1
      left = left - units
      taken = taken + units
      redis.call('SET', key, new_record, 'EX', RECORD_TTL_SECONDS)
      record_now[key] = new_record
      waiting_now[order] = new_entry
      owned_now[user] = has and (tonumber(has) + units) or ARGV[field + 2]
      new_pending[#new_pending + 1] = sale_text
      new_pending[#new_pending + 1] = order
      new_entries[#new_entries + 1] = order
      new_entries[#new_entries + 1] = new_entry
    end
  end
  if has and type(answer) == 'number' and answer >= 10 then answer = answer + 100 end
  answers[i + 3] = answer
end

if taken > 0 then
  redis.call('DECRBY', avail, taken)
  redis.call('ZADD', pending, unpack(new_pending))
  redis.call('HSET', entries, unpack(new_entries))
  local new_owned = {}
  for user, units in pairs(owned_now) do
    new_owned[#new_owned + 1] = user
    new_owned[#new_owned + 1] = units
  end
  redis.call('HSET', buyers, unpack(new_owned))
end
return answers
