"""The control plane's edge: decode → call → encode. No rule of the business stands here."""
