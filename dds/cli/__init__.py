"""The command: input and output around `dds.sample`; nothing imports it."""
