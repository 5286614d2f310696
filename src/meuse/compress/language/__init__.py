"""Language models made smaller: weights, the gate on perplexity, what the engine gains."""
