-- One header field twice, which native code leaves to the session.
local text

function init(args)
  text = "GET / HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nX-Field: 1\r\nX-Field: 2\r\n\r\n"
end

function request()
  return text
end
