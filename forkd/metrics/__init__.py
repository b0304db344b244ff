"""The daemon's metrics, made from the scoreboard and served by the admin endpoint."""
