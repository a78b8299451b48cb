"""YAML that people write: read with the lines that its values stand on, and held to types."""
