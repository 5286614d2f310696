"""Who acts: keys, tenants, scopes. Knows no database (see `core.ports.AccessStore`)."""
