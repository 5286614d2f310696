"""How good a language model is: how likely it finds texts, which answer it prefers, what it
writes. Knows tokens and records; no job, no store, no deployment."""
