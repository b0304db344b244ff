"""`forkd bench`: the operator's own application under a choice of models, measured with wrk."""
