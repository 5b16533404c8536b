-- What Zonebreak's filter does for an attempt, in Lua in the cluster, as far as Lua can: count it by status in buckets of 100 ms.
-- Left out, since Lua cannot learn it there: the attempt's zone, and with it everything else.

local bucket = { at = 0, attempts = 0, failed = 0 }

function envoy_on_response(handle)
  local status = tonumber(handle:headers():get(":status"))
  local now = math.floor(handle:timestamp() / 100)
  if bucket.at ~= now then
    bucket = { at = now, attempts = 0, failed = 0 }
  end
  bucket.attempts = bucket.attempts + 1
  if status >= 500 then
    bucket.failed = bucket.failed + 1
  end
end
