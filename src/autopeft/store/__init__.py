"""Where trials are kept: a database, leases, records, and what makes two studies the same."""
