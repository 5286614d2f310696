"""Runs inside `Database.migrate`, which passes the connection and the version table."""

from alembic import context

config = context.config
context.configure(
    connection=config.attributes["connection"],
    target_metadata=None,
    version_table=config.attributes["version_table"],
    transactional_ddl=False,  # the caller's transaction holds the whole upgrade
)
context.run_migrations()
