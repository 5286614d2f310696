"""The OpenAI API: chat, completions, embeddings and the list of models.

Reads requests into calls and writes results as OpenAI does. Knows no engine and no limit.
"""
