-- What Zonebreak's filter does for a request, in Lua, as far as Lua can: strip the internal header, keep a fifth of the
-- requests out of the own zone by a coin, read status, zone and server time of the response, count them by zone in buckets
-- of 100 ms. The route adds the zone as a header (the cheapest way for Lua to learn it), which is taken off again. Left out,
-- since Lua cannot see it: attempts that are retried, counters in /stats, agreement between workers.

local buckets = {}

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove("x-zonebreak-serve")
  if math.random() < 0.2 then
    headers:add("x-zonebreak-serve", "no-az-a")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = tonumber(headers:get(":status"))
  local zone = headers:get("x-upstream-zone") or "none"
  local took = tonumber(headers:get("x-envoy-upstream-service-time") or "0")
  headers:remove("x-upstream-zone")
  local now = math.floor(handle:timestamp() / 100)
  local bucket = buckets[zone]
  if bucket == nil or bucket.at ~= now then
    bucket = { at = now, requests = 0, failed = 0, slow = 0, took = 0, before = bucket }
    if bucket.before ~= nil then
      bucket.before.before = nil
    end
    buckets[zone] = bucket
  end
  bucket.requests = bucket.requests + 1
  bucket.took = bucket.took + took
  if status >= 500 then
    bucket.failed = bucket.failed + 1
  end
  if bucket.before ~= nil and took > 50 + bucket.before.took / bucket.before.requests then
    bucket.slow = bucket.slow + 1
  end
end
