"""Fine-tuning of language models: conversations or completions in, an adapter or a checkpoint out.

Lines are checked (`lines`), rendered and cut into tokens with the answers marked (`examples`),
laid out in rows (`layout`), and trained on (`loop`). Chat templates and tokenizers are given.
"""
