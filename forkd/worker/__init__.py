"""A child: from the fork to its exit."""
