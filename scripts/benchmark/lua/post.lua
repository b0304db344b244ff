-- A POST of 200 bytes; without a request() of ours, wrk makes its bytes once.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("x", 200)
