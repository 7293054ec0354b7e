"""What lies between a task and a backbone: batches, heads, losses."""
