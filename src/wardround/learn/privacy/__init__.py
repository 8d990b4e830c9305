"""What hides an update from the hub: masks that cancel in the sum (decision 7)."""
