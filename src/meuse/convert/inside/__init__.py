"""What runs in the sandbox: readers of files that are code. Nothing else imports this."""
