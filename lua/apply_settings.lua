-- Copies a SKU's settings to its gate, unless the gate has the same or newer ones.
--
-- KEYS[1] meta                hash: state, settings, epoch and the server
-- ARGV[1] settings_version    of the settings below
-- ARGV[2] setting_fields      field, value, ...: open_ms, close_ms (empty: none), limit, paused, price, currency
--
-- returns 1 APPLIED
-- returns 2 NOT_NEWER
-- returns 3 NOT_LOADED: there is no gate; its installation brings the settings
local meta = KEYS[1]
local settings_version = ARGV[1]
local FIRST_FIELD = 2
if redis.call('EXISTS', meta) == 0 then return 3 end
local version = tonumber(redis.call('HGET', meta, 'settings_version')) or -1
if version >= tonumber(settings_version) then return 2 end
redis.call('HSET', meta, 'settings_version', settings_version, unpack(ARGV, FIRST_FIELD))
return 1
