"""What the daemon tells about itself: the scoreboard as Prometheus metrics, over the admin endpoint."""
