"""What the daemon tells about itself: the scoreboard as metrics, over the admin endpoint."""
