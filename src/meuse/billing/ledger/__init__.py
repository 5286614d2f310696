"""Double-entry money: what is booked when invoices, payments and prepaid credit move.

Pure decisions over a `Books` port; `postings` is what issuing, paying and correcting invoices
calls, `wallets` what holds and spends prepaid credit, `routes` the calls of the ledger's server.
"""
