"""What travels over the bus: the envelope and the schema of every message."""
