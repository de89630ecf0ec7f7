-- A node's heartbeat, in Redis' own time. What it costs does not grow with the number of nodes.
--
-- KEYS[1]: what every key begins with.
-- ARGV: 1 the node's start, 2 who it is, 3 what it shows, 4 for how long it lives by this (ms),
--   5 an epoch should there be none, 6 for how long all is kept once no node lives (ms),
--   7 the month, 8 the membership that it knows, 9 of which epoch, then names and numbers:
--   n:NAME for what is true now, t:MONTH:LABEL for bytes that this start has counted in the month.
-- Returns: the epoch, the membership that is now known, whether what was known before is void,
--   who came (start, who), who has gone (start), the sums of all nodes, the month's traffic of all,
--   and how often the blocks have changed.
local prefix, instance, who, month = KEYS[1], ARGV[1], ARGV[2], ARGV[7]
local nodes, came, gone = prefix .. 'nodes', prefix .. 'came', prefix .. 'gone'
local sums, traffic = prefix .. 'sums', prefix .. 'traffic:' .. month
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Before anything else is written: a Redis that is full refuses this, but nothing after the first write.
local epoch = redis.call('GET', prefix .. 'epoch') or ARGV[5]
redis.call('SET', prefix .. 'epoch', epoch, 'PX', ARGV[6])

local function said_by(node)
    local fields, said = redis.call('HGETALL', prefix .. 'said:' .. node), {}
    for at = 1, #fields, 2 do said[fields[at]] = fields[at + 1] end
    return said
end

-- What comes to nothing is not kept: labels come and go.
local function add(key, field, number)
    if number == 0 then return end
    local sum = redis.call('HINCRBY', key, field, string.format('%.0f', number))
    if sum == 0 then redis.call('HDEL', key, field) end
end

local function moves(node, from, to)
    redis.call('ZREM', from, node)
    redis.call('ZADD', to, redis.call('INCR', prefix .. 'generation'), node)
end

-- Those whose time is over count no more. What they have relayed this month stays used.
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', now, 'LIMIT', 0, 16)) do
    if dead ~= instance then
        for name, number in pairs(said_by(dead)) do
            if name:sub(1, 2) == 'n:' then add(sums, name, -number) end
        end
        redis.call('ZREM', nodes, dead)
        moves(dead, came, gone)
    end
end
redis.call('ZREMRANGEBYRANK', gone, 0, -1025)

-- What this one says, by how it differs from what it said before.
local key, before = prefix .. 'said:' .. instance, said_by(instance)
local lived = redis.call('ZSCORE', nodes, instance)
local as_before = lived and before.who == who
redis.call('HSET', key, 'who', who, 'shows', ARGV[3])
before.who, before.shows = nil, nil
for at = 10, #ARGV, 2 do
    local name, number = ARGV[at], tonumber(ARGV[at + 1])
    local last = tonumber(before[name] or 0)
    if name:sub(1, 2) == 'n:' then
        add(sums, name, lived and number - last or number)
    else
        add(traffic, name:sub(#month + 4), number < last and number or number - last)
    end
    if not before[name] or number ~= last then redis.call('HSET', key, name, ARGV[at + 1]) end
    before[name] = nil
end
-- A key that has quotas no more, and has them again within the month, goes on from where it was.
local of_month = 't:' .. month .. ':'
for name, number in pairs(before) do
    if lived and name:sub(1, 2) == 'n:' then add(sums, name, -number) end
    if name:sub(1, #of_month) ~= of_month then redis.call('HDEL', key, name) end
end
if not as_before then moves(instance, gone, came) end
redis.call('ZADD', nodes, now + ARGV[4], instance)

-- Nothing of this stays for good.
for _, kept in ipairs({ nodes, came, gone, sums, prefix .. 'generation' }) do
    redis.call('PEXPIRE', kept, ARGV[6])
end
redis.call('PEXPIRE', key, 86400000)
redis.call('PEXPIRE', traffic, 62 * 86400000)

-- Who came and has gone since: all, where too many have gone for that to be known. In one piece: of
-- a part nobody could tell whether who is missing in it has gone since.
local known, void = tonumber(ARGV[8]), 0
local oldest = redis.call('ZRANGE', gone, 0, 0, 'WITHSCORES')
local forgotten = redis.call('ZCARD', gone) == 1024 and known < tonumber(oldest[2]) - 1
local generation = tonumber(redis.call('GET', prefix .. 'generation'))
if forgotten or ARGV[9] ~= epoch then known, void = 0, 1 end
local joined = redis.call('ZRANGEBYSCORE', came, '(' .. known, '+inf', 'WITHSCORES')
local left = redis.call('ZRANGEBYSCORE', gone, '(' .. known, '+inf')
for at = 1, #joined, 2 do
    joined[at + 1] = redis.call('HGET', prefix .. 'said:' .. joined[at], 'who') or ''
end
local blocks = tonumber(redis.call('GET', prefix .. 'blocks:generation') or 0)
return { epoch, generation, void, joined, left, redis.call('HGETALL', sums),
    redis.call('HGETALL', traffic), blocks }
