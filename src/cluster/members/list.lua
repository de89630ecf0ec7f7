-- Every node that lives. KEYS[1]: what every key begins with.
-- Returns for each: its start, who it is, what it shows, and for how long it lives by that (ms).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local list = {}
local nodes = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'nodes', '(' .. now, '+inf', 'WITHSCORES')
for at = 1, #nodes, 2 do
    local node, left = nodes[at], tonumber(nodes[at + 1]) - now
    local said = redis.call('HMGET', KEYS[1] .. 'said:' .. node, 'who', 'shows')
    table.insert(list, { node, said[1] or '', said[2] or '', left })
end
return list
