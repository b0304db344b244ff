-- Ten realistic header fields (Host among them), whose values differ from request to request.
-- The requests are made beforehand: the load generator must not be what is measured.
local agents = {
  "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36",
  "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
}
local languages = { "en-US,en;q=0.5", "de-DE,de;q=0.9,en;q=0.8", "fr,en;q=0.7", "ja;q=0.9,en;q=0.6" }
local count, requests, last = 1024, {}, 0

function init(args)
  math.randomseed(1)
  for i = 1, count do
    requests[i] = wrk.format("GET", "/", {
      ["User-Agent"] = agents[i % #agents + 1],
      ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
      ["Accept-Language"] = languages[i % #languages + 1],
      ["Accept-Encoding"] = "gzip, deflate, br",
      ["Referer"] = "http://" .. wrk.headers["Host"] .. "/page/" .. i,
      ["Cookie"] = string.format("session=%08x%08x; theme=dark", math.random(2 ^ 31), math.random(2 ^ 31)),
      ["Cache-Control"] = "max-age=0",
      ["X-Forwarded-For"] = string.format("10.%d.%d.%d", i % 7, i % 250, i % 199),
      ["X-Request-Id"] = string.format("%08x-%04x", math.random(2 ^ 31), i),
    })
  end
end

function request()
  last = last % count + 1
  return requests[last]
end
