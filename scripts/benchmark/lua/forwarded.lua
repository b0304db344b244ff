-- The four fields of a proxy, with 10,000 clients in random order, half of them with IPv6, behind two hops. An argument
-- is what their names begin with: another one makes of them fields of the same size that mean nothing.
local count, requests = 10000, {}

function init(args)
  local first = args[1] or "X"
  math.randomseed(1)
  for i = 1, count do
    local client
    if i % 2 == 0 then
      client = string.format("203.%d.%d.%d", i % 113, i % 251, i % 199)
    else
      client = string.format("2001:db8:%x:%x:%x:%x:%x:%x", i, i % 97 + 1, i % 61 + 1, i % 43 + 1, i % 31 + 1, i % 29 + 1)
    end
    requests[i] = wrk.format("GET", "/", {
      [first .. "-Forwarded-For"] = client .. ", 127.0.0.9",
      [first .. "-Forwarded-Proto"] = "https",
      [first .. "-Forwarded-Host"] = "www.example.org",
      [first .. "-Forwarded-Port"] = "443",
    })
  end
end

function request()
  return requests[math.random(count)]
end
