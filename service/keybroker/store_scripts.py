"""What the store does in one step, in Lua. Every name a script touches is among its KEYS, and in one cluster slot."""

# Whoever can write the store may have put something of another type under a name, where it would stay for ever.
_ONLY = """
local function only(kind, name)
  local found = redis.call('TYPE', name)['ok']
  if found ~= kind and found ~= 'none' then redis.call('DEL', name) end
end
"""

# KEYS: a key's sets, its ended sets. ARGV: field ("" keeps nothing), value, id, supersede, expiry (ms since 1970),
# late, lifetime (ms), channel, tag.
# The field "newest" names the one live set of a key where newer sets supersede older ones, "newest_expiry" its expiry.
# What is told late ends nothing that expires later: its replica was on its own when it was issued.
KEEP = (
    _ONLY
    + """
only('hash', KEYS[1])
only('zset', KEYS[2])
local now = redis.call('TIME')[1] * 1000
local ended, sets, id = KEYS[2], KEYS[1], ARGV[3]
local known = tonumber(redis.call('HGET', sets, 'newest_expiry') or '') or 0
if ARGV[6] == '1' and known > tonumber(ARGV[5]) then
  redis.call('ZADD', ended, now + ARGV[7], id)
  redis.call('PEXPIRE', ended, ARGV[7])
  redis.call('PUBLISH', ARGV[8], cjson.encode({key = ARGV[9], ended = id}))
  return 0
end
if ARGV[4] == '1' then
  local all = redis.call('HGETALL', sets)
  for i = 1, #all, 2 do
    local older = string.sub(all[i + 1], 1, 32)
    if older ~= id and all[i] ~= 'newest_expiry' then redis.call('ZADD', ended, now + ARGV[7], older) end
  end
  redis.call('DEL', sets)
  redis.call('HSET', sets, 'newest', id, 'newest_expiry', ARGV[5])
end
if ARGV[1] ~= '' and not redis.call('ZSCORE', ended, id) then redis.call('HSET', sets, ARGV[1], ARGV[2]) end
redis.call('PEXPIRE', sets, ARGV[7])
redis.call('ZREMRANGEBYSCORE', ended, '-inf', now)
redis.call('PEXPIRE', ended, ARGV[7])
redis.call('PUBLISH', ARGV[8], cjson.encode({key = ARGV[9], newest = ARGV[4] == '1' and id or nil}))
return 1
"""
)

# KEYS: a key's sets, its ended sets. ARGV: id, lifetime in ms, channel, tag, how many marks are kept.
# A full store lets a script go on whose first write takes no room: the mark is made all the same.
END = (
    _ONLY
    + """
only('hash', KEYS[1])
only('zset', KEYS[2])
local now = redis.call('TIME')[1] * 1000
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local named = all[i] == 'newest' or all[i] == 'newest_expiry'
  if not named and string.sub(all[i + 1], 1, 32) == ARGV[1] then redis.call('HDEL', KEYS[1], all[i]) end
end
redis.call('PUBLISH', ARGV[3], cjson.encode({key = ARGV[4], ended = ARGV[1]}))
return 1
"""
)

# KEYS: a key's sets. ARGV: field, value: deleted only if it is still this value.
DROP = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""

# KEYS: a lease. ARGV: replica, lifetime in ms. Answers nothing if it is taken, or is the replica's own: an answer may
# have been lost. Else its holder's value and rest in ms.
# One that would outlive its lifetime is nobody's: it was not written by a replica.
TAKE = (
    _ONLY
    + """
only('string', KEYS[1])
local rest = redis.call('PTTL', KEYS[1])
local value = redis.call('GET', KEYS[1])
local own = value and string.sub(value, 1, #ARGV[1] + 1) == ARGV[1] .. ' '
if own or rest < 0 or rest > tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1] .. ' 0', 'PX', ARGV[2])
  return nil
end
return {value, rest}
"""
)

# KEYS: a lease. ARGV: replica, expected wait, lifetime in ms.
RENEW = """
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
  return 1
end
return 0
"""

# KEYS: a lease. ARGV: replica, channel, tag.
RELEASE = """
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], cjson.encode({key = ARGV[3]}))
return 1
"""

# KEYS: the time of the next token, who waits, whether KMS throttled. ARGV: interval, guard (both in us), replica, and
# the longest wait in us that is of use: a token later than that is told of, and not taken.
# A token bucket of one on the store's own clock (GCRA): replicas' clocks differ.
RESERVE = (
    _ONLY
    + """
only('string', KEYS[1])
only('zset', KEYS[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then interval = interval * 2 end
local at = tonumber(redis.call('GET', KEYS[1]) or now) or now
if at ~= at or at < now then at = now end
if at < now + tonumber(ARGV[2]) then at = now + tonumber(ARGV[2]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 2 * interval)
if at - now > tonumber(ARGV[4]) then
  return {string.format('%.0f', math.min(at - now, 1e15)), redis.call('ZCARD', KEYS[2]), 0, interval}
end
local life = math.ceil((at + interval - now) / 1000) + 60000
redis.call('SET', KEYS[1], string.format('%.0f', at + interval), 'PX', life)
redis.call('ZADD', KEYS[2], at, ARGV[3])
redis.call('PEXPIRE', KEYS[2], life)
return {string.format('%.0f', at - now), redis.call('ZCARD', KEYS[2]), 1, interval}
"""
)

# KEYS: as RESERVE. ARGV: pause in us, seconds at half the rate in ms.
SLOW_DOWN = (
    _ONLY
    + """
only('string', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at = tonumber(redis.call('GET', KEYS[1]) or now) or now
if at < now + tonumber(ARGV[1]) then at = now + tonumber(ARGV[1]) end
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000) + 60000)
redis.call('SET', KEYS[3], 1, 'PX', ARGV[2])
return 1
"""
)
