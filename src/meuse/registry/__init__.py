"""Models, immutable versions, aliases, lineage. Knows no database and no engine."""
