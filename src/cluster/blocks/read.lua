-- All that operators have put on the lists. KEYS[1]: what every key begins with.
-- Returns the epoch (empty: nothing was ever put, or all is lost), how often it has changed, and for
-- each entry the list and the network, and for how long it stays (ms; negative for good).
local blocks = KEYS[1] .. 'blocks'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, epoch, all = redis.call('HGETALL', blocks), '', {}
for at = 1, #fields, 2 do
    local entry, lapses = fields[at], fields[at + 1]
    if entry == 'epoch' then
        epoch = lapses
    elseif lapses ~= '' and tonumber(lapses) <= now then
        redis.call('HDEL', blocks, entry)
    elseif entry:sub(1, 6) ~= 'taken ' then
        table.insert(all, { entry, lapses == '' and -1 or tonumber(lapses) - now })
    end
end
return { epoch, tonumber(redis.call('GET', KEYS[1] .. 'blocks:generation') or 0), all }
