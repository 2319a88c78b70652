"""Loading spans into a destination: each sent once, as nearly as HTTP allows."""
