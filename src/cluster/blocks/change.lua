-- Changes what operators have put on the lists. KEYS[1]: what every key begins with.
-- ARGV: 1 an epoch should there be none, then for each change: + or - or =, the list and the
-- network, and for how long it is to stay (ms), or nothing for good. What is said with = was there
-- before all was lost, and stays away if somebody has taken it back since.
-- One change is told to all nodes as it is; of several they are told to read. And now and then they
-- read all the same, and whoever is first takes out what has lapsed: nothing else would.
local blocks = KEYS[1] .. 'blocks'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSETNX', blocks, 'epoch', ARGV[1])
for at = 2, #ARGV, 3 do
    local sign, entry, lasts = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local taken = 'taken ' .. entry
    if sign == '-' then
        redis.call('HDEL', blocks, entry)
        redis.call('HSET', blocks, taken, string.format('%.0f', now + 60000))
    elseif sign == '+' or now > tonumber(redis.call('HGET', blocks, taken) or 0) then
        redis.call('HDEL', blocks, taken)
        local lapses = lasts == '' and '' or string.format('%.0f', now + lasts)
        redis.call('HSET', blocks, entry, lapses)
    end
end
local generation = redis.call('INCR', KEYS[1] .. 'blocks:generation')
local news = redis.call('HGET', blocks, 'epoch') .. ' ' .. generation
local is_told = #ARGV == 4 and ARGV[2] ~= '=' and generation % 256 ~= 0
if is_told then news = news .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] end
redis.call('PUBLISH', KEYS[1] .. 'news', news)
return 1
