"""What touches a live model: attaching modules, prefixes in the attention, dropout."""
