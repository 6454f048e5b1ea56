-- Errors of services that say nothing but a code and a message: the transcoder makes JSON of grpc-status-details-bin, a
-- google.rpc.Status, so one is put there. REASONS (by code), DOMAIN and TOLD are defined above. What becomes
-- of the code then is an HTTP status, from which it cannot be told again: so it is kept for the spans of the request.

local function varint(number)
  local bytes = ""
  while number > 127 do
    bytes = bytes .. string.char(number % 128 + 128)
    number = math.floor(number / 128)
  end
  return bytes .. string.char(number)
end

local function text(field, value)
  return string.char(field * 8 + 2) .. varint(#value) .. value
end

local function status(code, message)
  local info = text(1, REASONS[code] or "UNKNOWN") .. text(2, DOMAIN)
  local any = text(1, "type.googleapis.com/google.rpc.ErrorInfo") .. text(2, info)
  return string.char(8) .. varint(code) .. text(2, message) .. text(3, any)
end

local function complete(handle, fields)
  local code = tonumber(fields:get("grpc-status") or "")
  if code == nil or code < 1 then
    return
  end
  handle:streamInfo():dynamicMetadata():set(TOLD, "status", REASONS[code] or "UNKNOWN")
  if fields:get("grpc-status-details-bin") ~= nil then
    return
  end
  local message = (fields:get("grpc-message") or ""):gsub("%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end)
  fields:add("grpc-status-details-bin", handle:base64Escape(status(code, message)))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if (headers:get("content-type") or ""):sub(1, 16) ~= "application/grpc" then
    return
  end
  if headers:get("grpc-status") ~= nil then
    complete(handle, headers)
    return
  end
  local trailers = handle:trailers()
  if trailers ~= nil then
    complete(handle, trailers)
  end
end
