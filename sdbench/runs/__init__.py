"""The run record: its schema, the journal that survives a crash, and the way back into DataFrames."""
