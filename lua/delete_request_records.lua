-- Forgets the request records that still name these orders, so that the requests can start over.
--
-- KEYS[1] request_records   string each, one per order: <order>:<fingerprint>
-- ARGV[1] orders            the order ids
--
-- returns n: how many records were deleted
local deleted = 0
for i = 1, #ARGV do
  local record = redis.call('GET', KEYS[i])
  if record and string.sub(record, 1, #ARGV[i] + 1) == ARGV[i] .. ':' then
    deleted = deleted + redis.call('DEL', KEYS[i])
  end
end
return deleted
