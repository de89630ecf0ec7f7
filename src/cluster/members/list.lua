-- Every node that lives. KEYS[1]: what every key begins with.
-- Returns for each: its start, who it is, what it shows.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local list = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. 'nodes', '(' .. now, '+inf')) do
    local said = redis.call('HMGET', KEYS[1] .. 'said:' .. node, 'who', 'shows')
    table.insert(list, { node, said[1] or '', said[2] or '' })
end
return list
