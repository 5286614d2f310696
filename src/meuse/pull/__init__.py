"""Models from elsewhere: named by a source, fetched, recognised, described.

Knows package indexes, hosts, folders and the files of language models; knows no job, no
deployment and no store. Nothing that is fetched is ever executed.
"""
