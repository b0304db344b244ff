"""The verbs of the Valkey engine that are more than one command, in Lua: each runs on the server as one step.

Numbers of a script are doubles: exact up to 2**53, and times in microseconds are below. A 64-bit counter is
added to by INCRBY, and read back as text. A script touches keys of one hash tag, so that a cluster has them
in one place.
"""

from __future__ import annotations

__all__ = [
    "ACK", "ACQUIRE", "ALLOW", "CAS", "DEFER", "ENTRY", "FENCED", "HOLD", "INCR", "POP", "PUSH", "RELEASE",
    "RENEW", "SIZE", "TOUCH", "WAITING",
]  # fmt: skip

_NOW_MS = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
_NOW_US = "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2]\n"
_TEXT = "local function text(n) return string.format('%.0f', n) end\n"

# KEYS: value
ENTRY = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"

# KEYS: value. ARGV: value, ttl (ms, '' for none)
_SET = """
local function set(key, value, ttl)
    if ttl == '' then redis.call('SET', key, value)
    elseif tonumber(ttl) <= 0 then redis.call('DEL', key)
    else redis.call('SET', key, value, 'PX', ttl) end
end
"""

# KEYS: value. ARGV: token as bytes, as text, value, ttl
CAS = f"""{_SET}
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local token = string.find(value, '^[%-%d]') and value == ARGV[2] or string.sub(value, 2, 9) == ARGV[1]
if not token then return 0 end
set(KEYS[1], ARGV[3], ARGV[4])
return 1
"""

# KEYS: value, fence. ARGV: token, value, ttl
FENCED = f"""{_SET}
local last = redis.call('GET', KEYS[2])
if last and tonumber(last) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1])
set(KEYS[1], ARGV[2], ARGV[3])
return 1
"""

# KEYS: value. ARGV: by, ttl
INCR = """
local there = redis.call('EXISTS', KEYS[1])
redis.call('INCRBY', KEYS[1], ARGV[1])
if there == 0 and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
"""

# KEYS: value. ARGV: ttl
TOUCH = """
if ARGV[1] ~= '' then return redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])
"""

# KEYS: lock, its last token. ARGV: owner, lease (ms). The present holder's token and owner, or the new token.
ACQUIRE = f"""{_NOW_US}{_TEXT}
local held = redis.call('HMGET', KEYS[1], 'token', 'owner')
if held[1] then return held end
local token = text(math.max(now, (tonumber(redis.call('GET', KEYS[2])) or 0) + 1))
redis.call('SET', KEYS[2], token)
redis.call('HSET', KEYS[1], 'token', token, 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return token
"""

# KEYS: lock. ARGV: token, lease (ms)
RENEW = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: lock. ARGV: token
RELEASE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# A queue is: the last number; the data, and the tries, by number; and three sorted sets of numbers, the ready
# by number, the delayed and the taken by when they are due (ms).
_QUEUE = """
local last, data, tries, ready, delayed, taken = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
"""
_DUE = """
for _, set in ipairs({delayed, taken}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now)) do
        redis.call('ZREM', set, id)
        redis.call('ZADD', ready, id, id)
    end
end
"""

# KEYS: queue. ARGV: data, delay (ms), limit ('' for none)
PUSH = f"""{_NOW_MS}{_QUEUE}
if ARGV[3] ~= '' and redis.call('HLEN', data) >= tonumber(ARGV[3]) then return 0 end
local id = redis.call('INCR', last)
redis.call('HSET', data, id, ARGV[1])
if tonumber(ARGV[2]) > 0 then redis.call('ZADD', delayed, now + ARGV[2], id)
else redis.call('ZADD', ready, id, id) end
return id
"""

# KEYS: queue, the queue of its dead letters. ARGV: visible (ms), most tries (0: none)
POP = f"""{_NOW_MS}{_QUEUE}{_DUE}
while true do
    local id = redis.call('ZPOPMIN', ready)[1]
    if not id then return false end
    local try = redis.call('HINCRBY', tries, id, 1)
    if tonumber(ARGV[2]) == 0 or try <= tonumber(ARGV[2]) then
        redis.call('ZADD', taken, now + ARGV[1], id)
        return {{id, redis.call('HGET', data, id), try}}
    end
    local grave = redis.call('INCR', KEYS[7])
    redis.call('HSET', KEYS[8], grave, redis.call('HGET', data, id))
    redis.call('ZADD', KEYS[10], grave, grave)
    redis.call('HDEL', data, id)
    redis.call('HDEL', tries, id)
end
"""

_RECEIPT = """
if redis.call('HGET', tries, ARGV[1]) ~= ARGV[2] or not redis.call('ZSCORE', taken, ARGV[1]) then return 0 end
"""

# KEYS: queue. ARGV: number, tries
ACK = f"""{_QUEUE}{_RECEIPT}
redis.call('ZREM', taken, ARGV[1])
redis.call('HDEL', tries, ARGV[1])
return redis.call('HDEL', data, ARGV[1])
"""

# KEYS: queue. ARGV: number, tries, visible (ms)
HOLD = f"""{_NOW_MS}{_QUEUE}{_RECEIPT}
redis.call('ZADD', taken, now + ARGV[3], ARGV[1])
return 1
"""

# KEYS: queue. ARGV: number, tries, delay (ms)
DEFER = f"""{_NOW_MS}{_QUEUE}{_RECEIPT}
redis.call('ZREM', taken, ARGV[1])
if tonumber(ARGV[3]) > 0 then redis.call('ZADD', delayed, now + ARGV[3], ARGV[1])
else redis.call('ZADD', ready, ARGV[1], ARGV[1]) end
return 1
"""

# KEYS: queue
SIZE = f"""{_NOW_MS}{_QUEUE}
local function due(set) return redis.call('ZCOUNT', set, '-inf', now) end
local function later(set) return redis.call('ZCARD', set) - due(set) end
return {{redis.call('ZCARD', ready) + due(delayed) + due(taken), later(delayed), later(taken)}}
"""

# KEYS: queue
WAITING = f"""{_NOW_MS}{_QUEUE}
if redis.call('EXISTS', ready) == 1 then return 1 end
return redis.call('ZCOUNT', delayed, '-inf', now) + redis.call('ZCOUNT', taken, '-inf', now)
"""

# KEYS: arrival time (us). ARGV: interval, burst (us), cost. See limit.judge.
ALLOW = f"""{_NOW_US}{_TEXT}
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.min(math.max(tonumber(redis.call('GET', KEYS[1])) or 0, now), now + burst)
local ahead = arrival + interval * ARGV[3] - now - burst
if ahead > 0 then return {{0, math.floor((now + burst - arrival) / interval), text(ahead)}} end
local after = arrival + interval * ARGV[3]
redis.call('SET', KEYS[1], text(after), 'PX', text(math.ceil((after - now) / 1000) + 1))
return {{1, math.floor(-ahead / interval), '0'}}
"""
