-- A node stops. KEYS[1]: what every key begins with. ARGV[1]: the node's start.
local prefix, instance = KEYS[1], ARGV[1]
local key = prefix .. 'said:' .. instance
if redis.call('ZREM', prefix .. 'nodes', instance) == 1 then
    local said = redis.call('HGETALL', key)
    for at = 1, #said, 2 do
        if said[at]:sub(1, 2) == 'n:' and said[at + 1] ~= '0' then
            local sum = redis.call('HINCRBY', prefix .. 'sums', said[at], '-' .. said[at + 1])
            if sum == 0 then redis.call('HDEL', prefix .. 'sums', said[at]) end
        end
    end
    redis.call('ZREM', prefix .. 'came', instance)
    redis.call('ZADD', prefix .. 'gone', redis.call('INCR', prefix .. 'generation'), instance)
end
redis.call('DEL', key)
