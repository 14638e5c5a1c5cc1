"""Write and read the run record: its schema, a journal that survives a crash, and its tables as DataFrames."""
