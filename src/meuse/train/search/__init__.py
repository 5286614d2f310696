"""Search: many trials of one recipe, chosen by random, Halton, successive halving or TPE.

`space`, `spec`, `methods` and `outcomes` are pure; `pool` has the processes that trials run
in, `trials` is their inside, `run` joins them.
"""
